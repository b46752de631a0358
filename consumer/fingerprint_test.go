package consumer

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/secret"
)

// The fingerprint is written down twice. This holds the two together.
func TestFingerprintIsTheOneOfKeyturn(t *testing.T) {
	t.Parallel()
	strong := 0
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(
			rapid.StringMatching(`[0-9]{30,45}`), rapid.StringMatching(`[0-9a-f-]{20,40}`), rapid.StringMatching(`[0-9A-F-]{30,34}`),
			rapid.StringMatching(`[a-z0-9_-]{20,30}`), rapid.StringMatching(`[A-Z0-9_-]{20,30}`), rapid.StringMatching(`[A-Za-z0-9+/=_-]{18,26}`),
			rapid.StringMatching(`[ab]{0,300}`), rapid.String(),
		)
		fields := rapid.MapOf(rapid.StringMatching(`[a-zA-Z]{1,8}`), value).Draw(t, "fields")
		values := map[string]secret.Value{}
		for name, v := range fields {
			values[name] = secret.New([]byte(v))
		}
		got := fingerprint(fields)
		assert.Equal(t, secret.NewBundle(values).Fingerprint(), got)
		if got != "" {
			strong++
		}
	})
	assert.NotZero(t, strong, "the comparison must not be of empty strings alone")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a", `{"value":"a"}`, "export value='a'\n# b\nvalue=\"\\\"\"", "value=", "=\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		for _, format := range []Format{Plain, JSON, Env} {
			fields, err := Options{Format: format, Fields: []string{"value"}}.parse(content)
			if err == nil {
				assert.NotEmpty(t, fields["value"])
				assert.Len(t, fields, 1)
			}
		}
	})
}
