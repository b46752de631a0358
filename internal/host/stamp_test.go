package host_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/internal/temporaltest"
)

// twoWorkers are one that has the activities and one that has the workflow.
type twoWorkers struct {
	converter.DataConverter
	acts, decides *host.Stamp
}

func (w twoWorkers) WithContext(ctx context.Context) converter.DataConverter {
	w.DataConverter = w.acts.WithContext(ctx)
	return w
}

func (w twoWorkers) WithWorkflowContext(ctx workflow.Context) converter.DataConverter {
	w.DataConverter = w.decides.WithWorkflowContext(ctx)
	return w
}

func TestTwoWorkersWithDifferentConfigurationsWarn(t *testing.T) {
	t.Parallel()
	one, two, three := digestOf("one"), digestOf("two"), digestOf("three")
	many := make([]string, 30)
	for i := range many {
		many[i] = digestOf(strconv.Itoa(i))
	}
	for name, c := range map[string]struct {
		acts, decides []string // in force, one after the other; each result is made by the next one
		told          []string
	}{
		"one that makes them up, of the first twenty": {many, []string{one}, many[:20]},
		"one that writes something else there":        {[]string{"two", strings.Repeat("f", 65), strings.Repeat("x", 64), two + "\n"}, []string{one}, nil},
		"the same one":                                {[]string{one, one}, []string{one}, nil},
		"another one, told once":                      {[]string{two, two}, []string{one}, []string{two}},
		"each other one":                              {[]string{two, three, two}, []string{one}, []string{two, three}},
		"the one from before it was read anew":        {[]string{one, two}, []string{one, two}, nil},
		"a worker that does not say which it is":      {nil, []string{one}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			acts, decides := host.NewStamp(slog.New(slog.DiscardHandler)), host.NewStamp(slog.New(slog.NewTextHandler(&log, nil)))
			for _, digest := range c.decides {
				decides.InForce(digest)
			}
			env := temporaltest.NewEnvironment()
			env.SetDataConverter(twoWorkers{converter.GetDefaultDataConverter(), acts, decides})
			made := func(_ context.Context, by string) (string, error) {
				if by != "" {
					acts.InForce(by)
				}
				return "done", nil
			}
			env.RegisterActivity(made)
			env.ExecuteWorkflow(func(ctx workflow.Context) error {
				ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
				for _, by := range append(c.acts, "") {
					var result string
					if err := workflow.ExecuteActivity(ctx, made, by).Get(ctx, &result); err != nil {
						return err
					}
				}
				return nil
			})
			require.NoError(t, env.GetWorkflowError())
			assert.Equal(t, len(c.told), strings.Count(log.String(), "another worker has another configuration"), log.String())
			for _, digest := range c.told {
				assert.Contains(t, log.String(), "theirs="+digest)
			}
		})
	}
}

func digestOf(config string) string {
	sum := sha256.Sum256([]byte(config))
	return hex.EncodeToString(sum[:])
}
