package activities

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// keyturn status --watch reads these heartbeats from the server to draw them. It takes what it knows and leaves the rest: so
// add fields, but when one of these changes, change starter/health.go with it.
func TestHeartbeatsThatAWatchedRotationShows(t *testing.T) {
	t.Parallel()
	for want, beat := range map[string]any{
		`{"signals":[[{"errors":1,"total":100,"at":"0001-01-01T00:00:00Z"}]]}`: watchState{Signals: []policy.Readings{{key.Sample{Errors: 1, Total: 100}}}},
		`{"key":"k","of":"digest","done":"Aw==","spent":60000000000}`:          cursor{Key: "k", Of: "digest", Done: []byte{3}, Spent: time.Minute},
	} {
		text, err := json.Marshal(beat)
		require.NoError(t, err)
		assert.JSONEq(t, want, string(text))
	}
}
