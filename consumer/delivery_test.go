package consumer_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/consumer"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/file"
)

// What keyturn's file target writes, this package reads: the same key, and the same fingerprint.
func TestWhatKeyturnDeliversIsRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target  file.TargetConfig
		options consumer.Options
	}{
		"plain": {file.TargetConfig{Field: "secret"}, consumer.Options{Fields: []string{"secret"}}},
		"json":  {file.TargetConfig{Format: file.JSON}, consumer.Options{Format: consumer.JSON, Fields: []string{"id", "secret"}}},
		"env": {
			file.TargetConfig{Format: file.Env, Reader: file.Shell, Variables: map[string]string{"id": "API_ID", "secret": "API_SECRET"}},
			consumer.Options{Format: consumer.Env, Fields: []string{"id", "secret"}, Variables: map[string]string{"id": "API_ID", "secret": "API_SECRET"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "key")
			c.target.Path, c.options.Interval = path, time.Hour
			require.Empty(t, c.target.Problems())
			allow := providers.Environment{AllowFile: func(string) error { return nil }}
			target, err := file.Descriptor().Target.Open(allow, nil, &c.target)
			require.NoError(t, err)
			rapid.Check(t, func(t *rapid.T) {
				key := rapid.StringMatching(`[!-~]{8,60}`)
				bundle := secret.NewBundle(map[string]secret.Value{
					"id": secret.New([]byte(key.Draw(t, "id"))), "secret": secret.New([]byte(key.Draw(t, "secret"))),
					"foreign": secret.New([]byte("kept")),
				})
				require.NoError(t, target.Deliver(t.Context(), providers.Delivery{Instance: "a", Bundle: bundle}))

				f, err := consumer.Open(path, c.options)
				require.NoError(t, err)
				defer func() { _ = f.Close() }()
				assert.Equal(t, bundle.Only(c.options.Fields...).Fingerprint(), f.Fingerprint())
				for _, field := range c.options.Fields {
					v, _ := bundle.Field(field)
					assert.Equal(t, string(v.Reveal()), f.Fields()[field])
				}
			})
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		})
	}
}
