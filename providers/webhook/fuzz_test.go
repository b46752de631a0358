package webhook

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func FuzzToken(f *testing.F) {
	for _, seed := range []string{"whk_9fQ2mW0pLx7TRe2uA9sVfB3nKcYh5dJt\n", "", " \n", "a b", "a\r\nX-Admin: yes", "\x00", "é"} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "token")
	n := &notifier{config: Config{TokenFile: path}}
	f.Fuzz(func(t *testing.T, content []byte) {
		require.NoError(t, os.WriteFile(path, content, 0o600))
		token, err := n.token()
		if err != nil {
			assert.Contains(t, err.Error(), path)
			assert.Less(t, len(err.Error()), len(path)+200, "nothing of the file is repeated")
			return
		}
		value := token.Reveal()
		assert.NotEmpty(t, value)
		assert.NotContains(t, string(value), "\n", "it is one header")
		assert.NotContains(t, string(value), " ")
	})
}
