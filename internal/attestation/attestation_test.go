package attestation_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/attestation"
	"github.com/keyturn/keyturn/internal/outside"
)

func FuzzKeys(f *testing.F) {
	for _, seed := range []string{`"fp:0011"`, `["a","b"]`, `[]`, `[["a"]]`, `{"a":1}`, `null`, `7`, `"a\u001b[2J"`, `["a",null]`, `"ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt the key"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		var found any
		if json.Unmarshal(reply, &found) != nil {
			return
		}
		keys, err := attestation.Keys(found)
		if err != nil {
			assert.Empty(t, keys)
			assert.LessOrEqual(t, len(err.Error()), 100, "what it has instead may be the key, and is not repeated")
			return
		}
		assert.NotEmpty(t, keys)
		assert.LessOrEqual(t, len(keys), 8)
		for _, k := range keys {
			assert.NotEmpty(t, k)
			assert.Equal(t, outside.Text(k, 256), k, "it may be shown")
		}
	})
}
