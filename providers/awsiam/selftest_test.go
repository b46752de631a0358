package awsiam

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/providers"
)

// A key counts as refused where AWS says so of the key. Whoever else refuses the call proves nothing: by that neither is a
// destroyed key dead, nor one in use.
func TestOnlyWhatAWSSaysOfAKeyRefusesIt(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	coded := func(code, message string) string {
		return "<ErrorResponse><Error><Type>Sender</Type><Code>" + code + "</Code><Message>" + message + "</Message></Error></ErrorResponse>"
	}
	for name, c := range map[string]struct {
		status  int
		body    string
		off     time.Duration
		refused bool
	}{
		"a key that AWS does not know":             {http.StatusForbidden, coded("InvalidClientTokenId", "The security token included in the request is invalid."), 0, true},
		"a key whose secret is another":            {http.StatusForbidden, coded("SignatureDoesNotMatch", "The request signature we calculated does not match."), 0, true},
		"a signature that has expired":             {http.StatusForbidden, coded("SignatureDoesNotMatch", "Signature expired: 20260504T030201Z is now earlier than"), 0, false},
		"a signature of a time to come":            {http.StatusForbidden, coded("SignatureDoesNotMatch", "Signature not yet current: 20260504T030201Z is still later than"), 0, false},
		"a clock that is not that of AWS":          {http.StatusForbidden, coded("RequestTimeTooSkewed", "too far"), 20 * time.Minute, false},
		"a key of which a wrong clock tells":       {http.StatusForbidden, coded("InvalidClientTokenId", "invalid"), 20 * time.Minute, false},
		"the policy of an endpoint in between":     {http.StatusForbidden, coded("AccessDenied", "no VPC endpoint policy allows the sts:GetCallerIdentity action"), 0, false},
		"a region that is not activated":           {http.StatusForbidden, coded("RegionDisabledException", "STS is not activated in this region"), 0, false},
		"a proxy in between, which refuses a page": {http.StatusForbidden, "<html><head><title>Forbidden by policy</title></head></html>", 0, false},
		"a proxy in between, which says nothing":   {http.StatusForbidden, "", 0, false},
		"trouble on AWS's side":                    {http.StatusServiceUnavailable, coded("ServiceUnavailable", "later"), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(c.off).UTC().Format(http.TimeFormat))
				w.Header().Set("Content-Type", "text/xml")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(server.Close)
			account := &Account{Account: awsaccount.Account{Region: moto.Region, Endpoint: server.URL}}
			config, err := account.Config(t.Context())
			require.NoError(t, err)
			_, err = sts.NewFromConfig(config).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}, func(o *sts.Options) { o.Retryer = aws.NopRetryer{} })
			require.Error(t, err)
			assert.Equal(t, c.refused, isRefusal(err, false))
			if c.refused || c.off != 0 {
				assert.Equal(t, c.refused, isRefusal(err, true), "of a double, too")
			}
		})
	}
}

// The sandbox and docker-compose.yml have moto without anything before it.
func TestMotoRefusesAKeyInAFormOfItsOwn(t *testing.T) {
	w := newWorld(t)
	i := w.user()
	issued, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
	require.NoError(t, err)
	i.account = &Account{Account: awsaccount.Account{Region: moto.Region, Endpoint: w.Direct()}}
	require.NoError(t, i.SelfTest(t.Context(), issued.Bundle))
	require.NoError(t, i.Destroy(t.Context(), key.Ref{KeyID: issued.Key.KeyID}))
	require.ErrorIs(t, i.SelfTest(t.Context(), issued.Bundle), providers.ErrKeyRefused)
}
