package awsiam

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/inventory"
)

func TestAdministrator(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statement string
		admin     bool
	}{
		"everything on everything":                 {`{"Effect":"Allow","Action":"*","Resource":"*"}`, true},
		"everything, in lists":                     {`[{"Effect":"Allow","Action":["s3:Get*","*"],"Resource":["arn:aws:s3:::x","*"]}]`, true},
		"everything by two wildcards":              {`{"Effect":"Allow","Action":"*:*","Resource":"*"}`, true},
		"all of IAM, by which one takes the rest":  {`{"Effect":"Allow","Action":"IAM:*","Resource":"*"}`, true},
		"all but some":                             {`{"Effect":"Allow","NotAction":"billing:*","Resource":"*"}`, true},
		"everything but on some resources":         {`{"Effect":"Allow","Action":"*","NotResource":"arn:aws:s3:::x"}`, true},
		"everything denied":                        {`{"Effect":"Deny","Action":"*","Resource":"*"}`, false},
		"everything on one bucket":                 {`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::x"}`, false},
		"all of one service":                       {`{"Effect":"Allow","Action":"s3:*","Resource":"*"}`, false},
		"some of IAM":                              {`{"Effect":"Allow","Action":"iam:Get*","Resource":"*"}`, false},
		"everything by more stars":                 {`{"Effect":"Allow","Action":"**","Resource":"**"}`, true},
		"everything by a mark and a star":          {`{"Effect":"Allow","Action":"?*","Resource":"*"}`, true},
		"everything on all ARNs":                   {`{"Effect":"Allow","Action":"*","Resource":"arn:*"}`, true},
		"everything on all ARNs of a partition":    {`{"Effect":"Allow","Action":"*","Resource":"arn:aws:*"}`, true},
		"everything in one account":                {`{"Effect":"Allow","Action":"*","Resource":"arn:aws:iam::111122223333:*"}`, true},
		"all of IAM without a colon":               {`{"Effect":"Allow","Action":"iam*","Resource":"*"}`, true},
		"all of IAM in one account":                {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::111122223333:user/*"}`, true},
		"all of IAM on itself":                     {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::111122223333:user/payments"}`, true},
		"all of IAM on whoever asks":               {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::*:user/${aws:username}"}`, true},
		"the one action that gives all":            {`{"Effect":"Allow","Action":"iam:putuserpolic?","Resource":"*"}`, true},
		"all but some on a partition":              {`{"Effect":"Allow","NotAction":"s3:*","Resource":"arn:aws:*"}`, true},
		"all but some on one bucket":               {`{"Effect":"Allow","NotAction":"iam:*","Resource":"arn:aws:s3:::x"}`, false},
		"all of IAM on another user":               {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::111122223333:user/other"}`, false},
		"all of IAM on itself, in a folder":        {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::111122223333:user/team/a/payments"}`, true},
		"all of IAM on all of a folder":            {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::111122223333:user/team/*"}`, true},
		"all of IAM on another in a folder":        {`{"Effect":"Allow","Action":"iam:*","Resource":"arn:aws:iam::111122223333:user/team/other"}`, false},
		"its own keys":                             {`{"Effect":"Allow","Action":"iam:*AccessKey*","Resource":"arn:aws:iam::*:user/${aws:username}"}`, false},
		"all of a service that sounds alike":       {`{"Effect":"Allow","Action":"iam-x:*","Resource":"*"}`, false},
		"a list in which the second allows it all": {`[{"Effect":"Allow","Action":"s3:*","Resource":"*"},{"Effect":"Allow","Action":"*","Resource":"*"}]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reason, err := administrator(url.PathEscape(`{"Version":"2012-10-17","Statement":`+c.statement+`}`), "payments")
			require.NoError(t, err)
			assert.Equal(t, c.admin, reason != "", reason)
		})
	}
	for _, broken := range []string{"", "%zz", "[]", "{", `{"Statement":7}`} {
		_, err := administrator(broken, "payments")
		require.Error(t, err, "what cannot be read is not taken for harmless: %q", broken)
	}
}

func TestUserOf(t *testing.T) {
	t.Parallel()
	for arn, want := range map[string]string{
		"arn:aws:iam::123456789012:user/payments":           "payments",
		"arn:aws:iam::123456789012:user/team/payments":      "payments",
		"arn:aws-cn:iam::123456789012:user/payments":        "payments",
		"arn:aws:sts::123456789012:assumed-role/keyturn/1":  "",
		"arn:aws:sts::123456789012:federated-user/payments": "",
		"arn:aws:iam::123456789012:root":                    "",
		"nonsense":                                          "",
	} {
		name, root := userOf(arn)
		assert.Equal(t, want, name, arn)
		assert.Equal(t, arn == "arn:aws:iam::123456789012:root", root, arn)
	}
}

func FuzzAdministrator(f *testing.F) {
	f.Add(`{"Statement":[{"Effect":"Allow","Action":["*"],"Resource":"*"}]}`)
	f.Add(`{"Statement":{"Effect":"Allow","NotAction":"x","NotResource":["y"]}}`)
	f.Add(`%7B%22Statement%22:[]}`)
	f.Fuzz(func(t *testing.T, document string) {
		reason, err := administrator(document, "payments")
		if err != nil {
			assert.Less(t, len(err.Error()), 1024, "an error repeats little of a document")
			return
		}
		assert.Less(t, len(reason), 100)
		// Whoever grants everything besides is an administrator, whatever else the document says.
		text, err := url.PathUnescape(document)
		require.NoError(t, err)
		var parsed map[string]json.RawMessage
		var list []json.RawMessage
		if json.Unmarshal([]byte(text), &parsed) != nil || json.Unmarshal(parsed["Statement"], &list) != nil {
			return
		}
		whole, err := json.Marshal(map[string]any{"Statement": append(list, json.RawMessage(`{"Effect":"Allow","Action":"*","Resource":"*"}`))})
		require.NoError(t, err)
		if reason, err := administrator(url.PathEscape(string(whole)), "payments"); err == nil {
			assert.NotEmpty(t, reason)
		}
	})
}

func FuzzUserOf(f *testing.F) {
	for _, seed := range []string{"arn:aws:iam::123456789012:user/team/payments", "arn:aws:iam::123456789012:root", "a:b:c:d:e:user/", "::::::", "user/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arn string) {
		name, root := userOf(arn)
		assert.False(t, root && name != "", "root has no name")
		assert.NotContains(t, name, "/")
		assert.True(t, strings.HasSuffix(arn, name))
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for principal, ok := range map[string]bool{
		"payments-api": true, "a.b@c=d,e+f_g": true, "": false, "root": false, "Root": false, "<root_account>": false,
		"arn:aws:iam::123456789012:user/payments": false, "a b": false, "team/payments": false,
	} {
		assert.Equal(t, ok, len((&Config{Principal: principal}).Problems()) == 0, principal)
		assert.Equal(t, ok, len((&AttestationConfig{Principal: principal}).Problems()) == 0, principal)
	}
	assert.NotEmpty(t, (&Config{Principal: "p", Fields: FieldNames{ID: "x", Key: "x"}}).Problems())
}

// IAM's lag is not published: only a double on this host may report uses faster.
func TestUsageLag(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "")
	t.Setenv("AWS_ENDPOINT_URL_IAM", "")
	short := inventory.Duration(time.Second)
	assert.NotEmpty(t, (&Account{UsageLag: short}).Problems())
	assert.Empty(t, (&Account{UsageLag: inventory.Duration(5 * time.Hour)}).Problems())
	assert.Empty(t, (&Account{UsageLag: short, Account: awsaccount.Account{Endpoint: "http://127.0.0.1:5000"}}).Problems())
	assert.NotEmpty(t, (&Account{UsageLag: short, Account: awsaccount.Account{Endpoint: "https://iam.amazonaws.com"}}).Problems())
	t.Setenv("AWS_ENDPOINT_URL", "http://[::1]:5000")
	assert.Empty(t, (&Account{UsageLag: short}).Problems())
	assert.Equal(t, usageLag, capabilities(&Account{}, Config{}).UsageLag)
	assert.False(t, capabilities(&Account{}, Config{}).ReportsRefusals, "AWS does not document it")
	assert.Equal(t, time.Second, capabilities(&Account{UsageLag: short}, Config{}).UsageLag)
}
