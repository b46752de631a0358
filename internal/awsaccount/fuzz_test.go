package awsaccount

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A reply is refused, or handed on as it came.
func FuzzMustAnswer(f *testing.F) {
	for _, seed := range []string{
		`<ListAccessKeysResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><IsTruncated>false</IsTruncated></ListAccessKeysResponse>`,
		`<?xml version="1.0" encoding="UTF-8"?><!-- x --><!DOCTYPE a [<!ENTITY b "c">]><a:ListAccessKeysResponse/>`,
		"", "{}", "<", "<a", "<a></b>", "<ListUsersResponse/>", "\xef\xbb\xbf<ListAccessKeysResponse>", `<?xml version="1.1" encoding="x"?>`, strings.Repeat("<!--", 1000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		reply := &smithyhttp.Response{Response: &http.Response{Body: io.NopCloser(strings.NewReader(string(body)))}}
		if err := mustAnswer("ListAccessKeys", reply); err != nil {
			var unreadable *smithy.DeserializationError
			require.ErrorAs(t, err, &unreadable)
			told := Error("listing keys", err)
			assert.Equal(t, "listing keys: the reply is not one of AWS's API", told.Error(), "nothing of a reply is repeated")
			return
		}
		assert.Contains(t, string(body), "ListAccessKeysResponse")
		whole, err := io.ReadAll(reply.Body)
		require.NoError(t, err)
		assert.Equal(t, body, whole)
	})
}
