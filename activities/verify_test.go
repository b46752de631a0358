package activities_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// An issuer may refuse a new key for a while, at some of its hosts longer than at others.
func TestANewKeyWorksOnceItDidSoSeveralTimesInARow(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		op memory.Op
		// answers of the first tries: o accepted, R refused, U unknown. All later ones accept, unless never is set.
		answers string
		never   bool
		tries   int // at least, where it never works
	}{
		"three tries are enough":                                  {op: memory.OpSelfTest, tries: 3},
		"a refusal within the consistency time is no failure yet": {op: memory.OpSelfTest, answers: "RR", tries: 5},
		"a refusal begins the row anew":                           {op: memory.OpSelfTest, answers: "oRooR", tries: 8},
		"so does that of a smoke test":                            {op: memory.OpCheck, answers: "ooR", tries: 6},
		"an attempt without an answer leaves nothing of its row":  {op: memory.OpSelfTest, answers: "ooU", tries: 6},
		"a key that is still refused then does not work":          {op: memory.OpSelfTest, answers: "oo", never: true, tries: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			settings := memory.Strict()
			settings.KnowsTokens, settings.UsageLag, settings.ConsistentWithin = false, time.Minute, 4*time.Millisecond
			k.world.SetPrincipal("payments-api", settings)
			k.world.On(memory.OpIssue, func(p memory.Phase) {
				if p == memory.After {
					k.wait(time.Second) // only what is scripted refuses it
				}
			})
			var tries atomic.Int32
			k.world.Befall(func(_ context.Context, call memory.Call) error {
				if call.Op != c.op || call.Phase != memory.Before {
					return nil
				}
				switch n := int(tries.Add(1)); {
				case n > len(c.answers) && c.never, n <= len(c.answers) && c.answers[n-1] == 'R':
					return fmt.Errorf("%w: not known here yet", providers.ErrKeyRefused)
				case n <= len(c.answers) && c.answers[n-1] == 'U':
					return errors.New("503")
				}
				return nil
			})
			var issued activities.Issued
			require.NoError(t, k.attempt("Issue", activities.IssueInput{Rotation: k.subject(), Ordinal: 1}, &issued, 2))
			if c.never {
				assert.Equal(t, policy.KeyNotWorking, issued.Decision.Reason)
				assert.GreaterOrEqual(t, int(tries.Load()), c.tries)
				return
			}
			assert.True(t, issued.Decision.OK, issued.Decision.Message)
			assert.Equal(t, c.tries, int(tries.Load()))
		})
	}
}
