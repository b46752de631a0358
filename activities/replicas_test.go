package activities_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// balancer answers for an instance with one of its replicas after another.
type balancer struct {
	providers.Attestor
	asked *atomic.Int32
	// late are the keys that the third replica states, nil for what the others do.
	late func() []string
}

func (b balancer) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	list, err := b.Attestor.Attest(ctx, instances)
	if b.asked.Add(1)%3 == 0 && b.late() != nil {
		for i := range list {
			list[i].Keys = b.late()
		}
	}
	return list, err
}

func TestOneReplicaThatStaysBehindIsNoticed(t *testing.T) {
	t.Parallel()
	var behind atomic.Bool
	behind.Store(true)
	var asked atomic.Int32
	var c *crashCase
	c, names := aWave(t, 1, "        replicas: 3\n", "", func(d *providers.Descriptor) {
		open := d.Attestor.Open
		d.Attestor.Open = func(e providers.Environment, a, cfg any) (providers.Attestor, error) {
			whole, err := open(e, a, cfg)
			return balancer{whole, &asked, func() []string {
				if !behind.Load() {
					return nil
				}
				if asked.Load() > 3*15 {
					c.wait(wavesLast) // it has had several looks
				}
				return []string{"key-old"}
			}}, err
		}
	})
	result := c.deliver(c.wave())
	assert.Equal(t, policy.InstanceNotConverged, result.Decision.Reason)
	assert.Contains(t, result.Decision.Message, "the replicas of web/i0 do not all use key")
	assert.Equal(t, c.incoming.KeyID, c.world.Using(names[0]))
	assert.True(t, result.Stragglers[0].Statement.Split)

	behind.Store(false)
	assert.True(t, c.deliver(c.wave()).Decision.OK)
	assert.GreaterOrEqual(t, asked.Load(), int32(15), "five questions for each replica")
}

// slow answers only while it is asked as often at once as one look may ask an instance, but for the first question.
type slow struct {
	providers.Attestor
	asked, waiting *atomic.Int32
	full           chan struct{}
	broken         bool
}

func (s slow) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	if s.asked.Add(1) == 1 {
		return s.Attestor.Attest(ctx, instances)
	}
	if s.waiting.Add(1) == 20 {
		close(s.full)
	}
	select {
	case <-s.full:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.broken {
		return nil, errors.New("the third replica answers 503")
	}
	return s.Attestor.Attest(ctx, instances)
}

func TestReplicasAreAskedAtOnce(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"all of them answer": false, "one that does not answer ends it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked, waiting atomic.Int32
			full := make(chan struct{})
			c, _ := aWave(t, 1, "        replicas: 20\n", "", func(d *providers.Descriptor) {
				open := d.Attestor.Open
				d.Attestor.Open = func(e providers.Environment, a, cfg any) (providers.Attestor, error) {
					whole, err := open(e, a, cfg)
					return slow{whole, &asked, &waiting, full, broken}, err
				}
			})
			if broken {
				c.looksOnce()
			}
			result := c.deliver(c.wave())
			assert.Equal(t, !broken, result.Decision.OK, result.Decision.Message)
			if broken {
				assert.Contains(t, result.Decision.Message, "it answered 1 times of 100, within 30s at most: the third replica answers 503")
				assert.Less(t, asked.Load(), int32(50))
			} else {
				assert.Equal(t, int32(100), asked.Load())
			}
		})
	}
}
