package activities_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/providers/memory"
)

// A delivery that takes long tells its run how far it is, ever more rarely; one that nobody listens to goes on all the same.
func TestADeliveryThatTakesLongTellsHowFarItIs(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		wave   string
		answer error
		times  int
	}{
		"to somebody":                      {"rest", nil, 3}, // after half a minute, one and two
		"to nobody":                        {"rest", errors.New("the run has ended"), 3},
		"not when it is one of a rollback": {activities.WaveBack, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCase(t)
				c.do.PollEvery = time.Second
				ctx := activities.ByProgram(t.Context(), activities.WorkflowID("payments-api"), "by-a-program")
				issued, err := c.do.Issue(ctx, activities.IssueInput{Rotation: c.subject(), Ordinal: 1})
				require.NoError(t, err)
				c.incoming = issued.Key
				c.world.SetInstance("checkout-b", memory.InstanceSettings{Mute: errors.New("connection refused")})
				var told []activities.Progress
				c.do.Tell = func(_ context.Context, p activities.Progress) error {
					told = append(told, p)
					return x.answer
				}
				go func() { // the clock by which it counts
					for passed := time.Duration(0); passed < 3*time.Minute; passed += time.Second {
						<-time.After(time.Second)
						c.wait(time.Second)
					}
					c.world.SetInstance("checkout-b", memory.InstanceSettings{})
				}()
				result, err := c.do.DeliverWave(ctx, activities.WaveInput{Rotation: c.subject(), Key: c.incoming, Wave: x.wave, Instances: []string{"checkout/b"}})
				require.NoError(t, err)
				require.True(t, result.Decision.OK, result.Decision.Message)
				require.Len(t, told, x.times)
				for _, p := range told {
					assert.Equal(t, c.incoming.KeyID, p.KeyID)
					assert.Equal(t, "rest", p.Wave)
					require.Len(t, p.Result.Stragglers, 1)
					assert.Equal(t, "checkout/b", p.Result.Stragglers[0].Name())
					assert.Contains(t, p.Result.Stragglers[0].NotAttesting, "connection refused")
				}
			})
		})
	}
}
