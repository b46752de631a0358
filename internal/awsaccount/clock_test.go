package awsaccount_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/providers"
)

// ofClock is an account at an AWS whose clock is off by so much, and which answers with a status; by nil it sends no Date.
func ofClock(t *testing.T, off *time.Duration, status int) aws.Config {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		if off != nil {
			w.Header().Set("Date", time.Now().Add(*off).UTC().Format(http.TimeFormat))
		}
		w.WriteHeader(status)
		if status != http.StatusOK {
			_, _ = io.WriteString(w, "<ErrorResponse><Error><Code>RequestTimeTooSkewed</Code></Error></ErrorResponse>")
			return
		}
		action := r.FormValue("Action")
		_, _ = fmt.Fprintf(w, "<%[1]sResponse><%[1]sResult><AccessKey><AccessKeyId>AKIANEW</AccessKeyId></AccessKey></%[1]sResult></%[1]sResponse>", action)
	}))
	t.Cleanup(server.Close)
	c, err := (&awsaccount.Account{Region: "eu-central-1", Endpoint: server.URL}).Config(t.Context())
	require.NoError(t, err)
	return c
}

func TestALookByAClockThatIsNotThatOfAWSIsRefused(t *testing.T) {
	by := func(d time.Duration) *time.Duration { return &d }
	for name, c := range map[string]struct {
		off    *time.Duration
		status int
		says   string
	}{
		"ahead of AWS's":                      {by(-5 * time.Minute), http.StatusOK, `the clock of this worker is [45]m[0-9]+s ahead of AWS's: set it right`},
		"behind AWS's":                        {by(5 * time.Minute), http.StatusOK, `the clock of this worker is [45]m[0-9]+s behind AWS's: set it right`},
		"which AWS refuses itself":            {by(20 * time.Minute), http.StatusForbidden, `the clock of this worker is (19|20)m[0-9]+s behind AWS's`},
		"not a little off":                    {by(20 * time.Second), http.StatusOK, ""},
		"not where the reply does not say it": {nil, http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sts.NewFromConfig(ofClock(t, c.off, c.status)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			err = awsaccount.Error("asking who we are", err)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			assert.Regexp(t, "^asking who we are: "+c.says, err.Error())
			for _, sentinel := range []error{providers.ErrDenied, providers.ErrInvalid, providers.ErrNotFound, providers.ErrKeyRefused} {
				assert.NotErrorIs(t, err, sentinel, "it passes, once the clock is right")
			}
		})
	}
}

// A key that was minted would be lost with its reply.
func TestWhatHasTakenEffectIsAnsweredWhateverTheClock(t *testing.T) {
	off := 5 * time.Minute
	out, err := iam.NewFromConfig(ofClock(t, &off, http.StatusOK)).CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: aws.String("payments")})
	require.NoError(t, err)
	assert.Equal(t, "AKIANEW", aws.ToString(out.AccessKey.AccessKeyId))

	_, err = iam.NewFromConfig(ofClock(t, &off, http.StatusForbidden)).CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: aws.String("payments")})
	require.ErrorContains(t, awsaccount.Error("issuing", err), "the clock of this worker")
}
