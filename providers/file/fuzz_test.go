package file

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/consumer"
	"github.com/keyturn/keyturn/internal/secret"
)

// Whatever an issuer takes for a key, a consumer reads the same out of the file, in each format, or it is
// refused before it is written.
func FuzzRender(f *testing.F) {
	for _, seed := range []string{"ktg_Zq81mW0p", `a"b'c\d$e` + "`", "a b", "#x", "a=b", " ", "'x'", `"x"`, "a\nb", "a\rb", "é\u2028", "\xff", "\u0085x", "\\"} {
		f.Add(seed, "other")
	}
	path := filepath.Join(f.TempDir(), "key")
	f.Fuzz(func(t *testing.T, value, other string) {
		b := secret.NewBundle(map[string]secret.Value{"value": secret.New([]byte(value)), "other": secret.New([]byte(other))})
		for _, c := range []struct {
			target TargetConfig
			reads  consumer.Options
		}{
			{TargetConfig{Format: JSON}, consumer.Options{Format: consumer.JSON, Fields: []string{"value", "other"}}},
			{TargetConfig{Format: Env, Reader: Shell, Variables: map[string]string{"value": "A", "other": "B"}},
				consumer.Options{Format: consumer.Env, Fields: []string{"value", "other"}, Variables: map[string]string{"value": "A", "other": "B"}}},
		} {
			content, err := c.target.render(b)
			if err != nil {
				if len(value) > 8 && len(value) < 4096 {
					assert.NotContains(t, err.Error(), value)
				}
				continue
			}
			if c.target.Format == JSON {
				assert.True(t, json.Valid(content))
			}
			if len(content) > 32<<10 {
				continue // beyond what a consumer reads
			}
			require.NoError(t, os.WriteFile(path, content, 0o600))
			c.reads.Interval = time.Hour
			read, err := consumer.Open(path, c.reads)
			require.NoError(t, err)
			assert.Equal(t, map[string]string{"value": value, "other": other}, read.Fields(), "%s", c.target.Format)
			require.NoError(t, read.Close())
		}
	})
}
