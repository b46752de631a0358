package demo

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/renameio/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/consumer"
)

const (
	firstKey  = "DGY3OAYV4E2RSMC7WNIDH2JQ55"
	secondKey = "QYXH3LZ7TPOA2KVB6MCIWD4NRE"
	thirdKey  = "M3C6RWZ2KJ7QXU4ANHV5DTLEYP"
)

// consume runs a consumer of a gateway that answers with status.
func consume(t *testing.T, status func(key string) int, change func(*ConsumerOptions)) (c *Consumer, keyFile string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status(presented(r)))
	}))
	t.Cleanup(server.Close)
	keyFile = filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(keyFile, []byte(firstKey), 0o600))
	o := ConsumerOptions{Name: "checkout-a", KeyFile: keyFile, Gateway: server.URL, Every: time.Millisecond}
	if change != nil {
		change(&o)
	}
	c, err := NewConsumer(o)
	require.NoError(t, err)
	c.Run(t.Context())
	t.Cleanup(c.Close)
	return c, keyFile
}

// eventually waits for what surely comes: its limit ends a hang.
func eventually(t *testing.T, what func() bool) {
	t.Helper()
	require.Eventually(t, what, 3*time.Minute, 5*time.Millisecond)
}

func TestConsumerCountsEachRequestOnce(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	answers := []int{http.StatusOK, http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError, http.StatusOK}
	c, _ := consume(t, func(string) int { return answers[int(n.Add(1)-1)%len(answers)] }, nil)
	eventually(t, func() bool { return n.Load() > 20 })
	c.Close()

	got := c.Counts()
	assert.Equal(t, int(n.Load()), got.Sent, "what was sent arrived")
	assert.Equal(t, got.Sent, got.Accepted+got.Refused+got.Failed)
	assert.InDelta(t, got.Sent/5*2, got.Refused, 2)
	assert.InDelta(t, got.Sent/5, got.Failed, 1)
}

func TestConsumerCountsRequestsWithoutAnswerAsFailed(t *testing.T) {
	t.Parallel()
	c, _ := consume(t, nil, func(o *ConsumerOptions) { o.Gateway = "http://127.0.0.1:1/ping" })
	eventually(t, func() bool { return c.Counts().Failed > 2 })
	assert.Zero(t, c.Counts().Accepted)
}

func TestConsumerTakesTheNewKeyWithoutLosingARequest(t *testing.T) {
	t.Parallel()
	var second atomic.Int64
	c, keyFile := consume(t, func(key string) int {
		switch key {
		case firstKey:
			return http.StatusOK
		case secondKey:
			second.Add(1)
			return http.StatusOK
		}
		return http.StatusUnauthorized
	}, nil)
	eventually(t, func() bool { return c.Counts().Accepted > 0 })
	before := c.Counts().Key
	require.NoError(t, renameio.WriteFile(keyFile, []byte(secondKey), 0o600))
	eventually(t, func() bool { return second.Load() > 2 })
	c.Close()
	got := c.Counts()
	assert.NotEqual(t, before, got.Key)
	assert.Equal(t, got.Sent, got.Accepted)
}

func TestStuckConsumerStaysOnItsKey(t *testing.T) {
	t.Parallel()
	var first, other atomic.Int64
	c, keyFile := consume(t, func(key string) int {
		if key == firstKey {
			first.Add(1)
		} else {
			other.Add(1)
		}
		return http.StatusOK
	}, func(o *ConsumerOptions) { o.Stuck = true })
	follows, err := NewConsumer(ConsumerOptions{Name: "checkout-b", KeyFile: keyFile})
	require.NoError(t, err)
	t.Cleanup(follows.Close)
	before := c.Counts().Key
	for _, next := range []string{secondKey, thirdKey} { // two, since others do not read at the same moment
		last := follows.Counts().Key
		require.NoError(t, renameio.WriteFile(keyFile, []byte(next), 0o600))
		eventually(t, func() bool { return follows.Counts().Key != last })
	}
	sent := c.Counts().Sent
	eventually(t, func() bool { return c.Counts().Sent > sent+1 })
	assert.Positive(t, first.Load())
	assert.Zero(t, other.Load())
	assert.Equal(t, before, c.Counts().Key)
}

func TestConsumerAnswersKeyturn(t *testing.T) {
	t.Parallel()
	c, _ := consume(t, func(string) int { return http.StatusUnauthorized }, nil)
	eventually(t, func() bool { return c.Counts().Refused > 2 })
	c.Close()
	ask := func(path string, into any) int {
		w := httptest.NewRecorder()
		c.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if into != nil {
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), into), path)
		}
		return w.Code
	}
	assert.Equal(t, http.StatusOK, ask("/healthz", nil))
	var a consumer.Attestation
	assert.Equal(t, http.StatusOK, ask("/keyturn", &a))
	assert.Equal(t, c.Counts().Key, a.Key)
	var stats struct{ Errors, Total int }
	assert.Equal(t, http.StatusOK, ask("/stats", &stats))
	assert.Equal(t, c.Counts().Sent, stats.Total)
	assert.Equal(t, c.Counts().Refused, stats.Errors)
}

func TestNewConsumerNeedsAKeyFile(t *testing.T) {
	t.Parallel()
	_, err := NewConsumer(ConsumerOptions{Name: "checkout-a", KeyFile: filepath.Join(t.TempDir(), "none")})
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "checkout-a")
}
