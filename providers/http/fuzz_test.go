package http

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		`{"key":"fp:0011","errors":1,"total":2.5,"window":60}`, `{"key":["a","b"],"errors":-1,"total":1e999}`, `{"a":[{"b/c":"k"}]}`, `[1,[2]]`,
		`{"errors":null}`, `{"window":1e300,"errors":0,"total":0}`, `{"":{"":7}}`, `"x"`, `null`, `[[[[`, `{} {}`,
	} {
		for _, pointer := range []string{"/key", "/a/0/b~1c", "/-", "", "/", "/1/0", "//", "/~0~1"} {
			f.Add([]byte(seed), pointer)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		if len(problemsOfPointer("pointer", pointer)) > 0 {
			return
		}
		at, err := pointerOf(pointer, "/key")
		assert.NoError(t, err, "a pointer that validation takes can be used")
		document, err := request{url: "https://edge.internal/?token=x"}.document(reply{status: 200, body: body})
		if err != nil {
			assert.NotContains(t, err.Error(), "token")
			assert.Less(t, len(err.Error()), 200, "the reply is not repeated")
			return
		}
		keys, err := (&attestor{pointer: at}).stated(document)
		assert.Equal(t, err == nil, len(keys) > 0)
		for _, k := range keys {
			assert.Equal(t, outside.Text(k, 256), k, "it may be shown")
		}
		errorsAt, _ := pointerOf("", "/errors")
		totalAt, _ := pointerOf("", "/total")
		var sample key.Sample
		err = (&health{errors: errorsAt, total: totalAt, window: at}).read(document, &sample)
		if err == nil {
			assert.False(t, sample.Errors < 0 || sample.Total < 0 || math.IsNaN(sample.Errors+sample.Total) || math.IsInf(sample.Errors+sample.Total, 0))
			assert.GreaterOrEqual(t, int64(sample.Window), int64(0))
		}
	})
}

// What validation lets through goes into a request as it is, with the key where it belongs and nowhere else.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{"Authorization: Bearer {value}", "X: {value}{value}", "a:b", ":", "X: {other}", "X: \x00", "Host: x", "X-Y: {{value}}", "X\r\nY: z"} {
		f.Add(seed, "s3cr3t-value")
	}
	f.Fuzz(func(t *testing.T, line, value string) {
		c := CheckConfig{URL: "https://edge.internal/", Header: line}
		if len(c.Problems()) > 0 {
			return
		}
		filled, sends, err := (&check{config: c}).fill(secret.Single(secret.New([]byte(value))))
		if err != nil {
			assert.True(t, errors.Is(err, providers.ErrInvalid))
			return
		}
		for name, values := range filled {
			assert.True(t, headerName.MatchString(name))
			for _, v := range values {
				assert.True(t, sendable(v))
				if !sends {
					assert.Equal(t, c.headers()[0].text, v)
				}
			}
		}
	})
}
