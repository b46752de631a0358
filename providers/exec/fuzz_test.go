package exec

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/providers"
)

func FuzzReply(f *testing.F) {
	const key = "ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"
	for _, seed := range []string{
		`{"ok":true}`, `{"ok":false,"refused":true,"message":"` + key + `\u001b[2J"}`, `{"ok":true,"refused":true}`, `{"ok":null}`, `{"ok":true}{}`,
		`{"ok":true,"keys":["fp:00112233445566778899aabbccddeeff"]}`, `{"OK":true,"Keys":["a",null]}`, `[[[[`, key,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, output []byte) {
		r, malformed := decode(output)
		err := judge(output, true)
		assert.Equal(t, malformed == nil && r.OK != nil && *r.OK && !r.Refused, err == nil, "well is only who says so, and nothing else")
		if err != nil {
			text := err.Error()
			if malformed == nil {
				r.Message, r.Keys = strings.Repeat("x", len(r.Message)), nil
				other, _ := json.Marshal(r)
				assert.EqualError(t, judge(other, true), text, "of a message only the length is told")
			}
			assert.LessOrEqual(t, len(text), 200)
			assert.Equal(t, outside.Text(text, len(text)), text, "it may be shown")
		}
		if errors.Is(err, providers.ErrKeyRefused) {
			assert.True(t, r.Refused && !*r.OK)
		}
		keys, err := stated(output)
		assert.Equal(t, err == nil, len(keys) > 0)
		for _, k := range keys {
			assert.Equal(t, outside.Text(k, 256), k)
		}
	})
}
