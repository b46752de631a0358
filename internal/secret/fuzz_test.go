package secret_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/secret"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"value":"a"}`, `{"value":7}`, `{}`, `null`, `[]`, `{"a":"b","a":"c"}`, `{"value":"\ud800"}`, `{"value":"ktg_secret"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := secret.Decode(data)
		if err != nil {
			assert.Equal(t, "decoding bundle: not a JSON object of strings", err.Error(), "nothing of the input is repeated")
			return
		}
		again, err := b.Encode()
		require.NoError(t, err)
		same, err := secret.Decode(again)
		require.NoError(t, err)
		assert.True(t, b.Equal(same), "what was read can be written and read again")
	})
}

func FuzzShownIn(f *testing.F) {
	f.Add([]byte("ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"), "it says ", " twice", 3)
	f.Add([]byte("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), "\x1b[31m", "", 0)
	f.Add([]byte(`"quoted\key"<&>`), "", "", 20)
	f.Fuzz(func(t *testing.T, key []byte, before, after string, from int) {
		if len(key) < 16 || len(key) > 512 || len(before)+len(after) > 1<<10 {
			return
		}
		from = min(max(0, from), len(key)-8)
		b := secret.Single(secret.New(key))
		// A run of eight bytes is as bad as all of it.
		for _, told := range []string{string(key), string(key[from : from+8]), hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key))} {
			assert.True(t, b.ShownIn(before+told+after), "%q", told)
		}
	})
}
