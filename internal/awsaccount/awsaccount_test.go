package awsaccount_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/providers"
)

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		account *awsaccount.Account
		field   string
	}{
		"all by the environment":            {&awsaccount.Account{}, ""},
		"everything said":                   {&awsaccount.Account{Region: "eu-central-1", Profile: "rotator", Endpoint: "https://iam.example.com"}, ""},
		"a double on this host":             {&awsaccount.Account{Endpoint: "http://127.0.0.1:5000"}, ""},
		"a region that is none":             {&awsaccount.Account{Region: "eu central"}, "region"},
		"a profile that is none":            {&awsaccount.Account{Profile: "../x"}, "profile"},
		"an endpoint elsewhere without TLS": {&awsaccount.Account{Endpoint: "http://aws.example.com"}, "endpoint"},
		"an endpoint with a password":       {&awsaccount.Account{Endpoint: "https://a:b@aws.example.com"}, "endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.account.Problems()
			if c.field == "" {
				assert.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			assert.Equal(t, c.field, problems[0].Field)
		})
	}
}

// Which endpoint counts follows the SDK: the account's, that of the service, that of all services.
func TestOnThisHost(t *testing.T) {
	const here, there = "http://127.0.0.1:5000", "https://iam.amazonaws.com"
	for name, c := range map[string]struct {
		account, all, service, ignore string
		want                          bool
	}{
		"AWS itself":                             {"", "", "", "", false},
		"the account's":                          {here, "", "", "", true},
		"that of the environment":                {"", here, "", "", true},
		"the account's before the environment's": {there, here, "", "", false},
		"the account's before the service's":     {there, here, here, "", false},
		"the service's before that of all":       {"", here, there, "", false},
		"that of the service alone":              {"", "", here, "", true},
		"a name that only looks like this host":  {"https://localhost.example.com", "", "", "", false},
		"not the environment's that is ignored":  {"", here, here, "true", false},
		"the account's, whatever is ignored":     {here, there, there, "true", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_ENDPOINT_URL", c.all)
			if c.service != "" {
				t.Setenv("AWS_ENDPOINT_URL_IAM", c.service)
			}
			t.Setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", c.ignore)
			t.Setenv("AWS_CONFIG_FILE", os.DevNull)
			a := &awsaccount.Account{Region: "eu-central-1", Endpoint: c.account}
			assert.Equal(t, c.want, a.OnThisHost("IAM"))
			config, err := a.Config(t.Context())
			require.NoError(t, err)
			asked := aws.ToString(iam.NewFromConfig(config).Options().BaseEndpoint)
			assert.Equal(t, c.want, asked == here, "the SDK asks %q", asked)
		})
	}
}

func TestARegionIsNeeded(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	_, err := new(awsaccount.Account).Config(t.Context())
	require.ErrorIs(t, err, providers.ErrInvalid)
	require.ErrorContains(t, err, "set region in the account, or AWS_REGION")
	c, err := (&awsaccount.Account{Region: "eu-central-1"}).Config(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "eu-central-1", c.Region)
}

func TestError(t *testing.T) {
	t.Parallel()
	const value = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	answer := func(code, message string) error {
		return fmt.Errorf("operation error: %w", &smithy.GenericAPIError{Code: code, Message: message})
	}
	for code, want := range map[string]error{
		"Throttling": providers.ErrThrottled, "ThrottlingException": providers.ErrThrottled, "NoSuchEntity": providers.ErrNotFound,
		"ResourceNotFoundException": providers.ErrNotFound, "AccessDenied": providers.ErrDenied, "InvalidClientTokenId": providers.ErrDenied,
		"ResourceExistsException": providers.ErrConflict, "InvalidParameterException": providers.ErrInvalid,
	} {
		assert.ErrorIs(t, awsaccount.Error("asking", answer(code, "words")), want, code)
	}
	err := awsaccount.Error("putting", answer("InternalFailure", value))
	require.EqualError(t, err, "putting: InternalFailure")
	for _, sentinel := range []error{providers.ErrDenied, providers.ErrInvalid, providers.ErrNotFound} {
		assert.NotErrorIs(t, err, sentinel, "what is not known is passing trouble")
	}
	require.NoError(t, awsaccount.Error("asking", nil))
	require.ErrorIs(t, awsaccount.Error("asking", fmt.Errorf("request: %w", context.Canceled)), context.Canceled)
	require.ErrorIs(t, awsaccount.Error("asking", fmt.Errorf("request: %w", context.DeadlineExceeded)), context.DeadlineExceeded)
	assert.Empty(t, awsaccount.Code(errors.New("no route to host")))
	assert.Empty(t, awsaccount.Code(answer(value, "words")), "a code may be anything, too")
	assert.Equal(t, "LimitExceeded", awsaccount.Code(answer("LimitExceeded", "words")))
}

// What a person needs to find a call in CloudTrail is told, and nothing else of the reply.
func TestErrorTellsWhichCallItWas(t *testing.T) {
	t.Parallel()
	const said, id = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "7a62c49f-347e-4fc4-9331-6e8eEXAMPLE"
	call := func(err error) error {
		return &smithy.OperationError{ServiceID: "IAM", OperationName: "CreateAccessKey", Err: err}
	}
	answered := func(requestID string, err error) error {
		return call(&awshttp.ResponseError{RequestID: requestID, ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: http.StatusForbidden}}, Err: err,
		}})
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a code that is documented": {
			answered("7a62c49f-347e-4fc4-9331-6e8e0123abcd", &smithy.GenericAPIError{Code: "InternalFailure", Message: said}),
			"issuing: IAM CreateAccessKey: InternalFailure (status 403, request 7a62c49f-347e-4fc4-9331-6e8e0123abcd)",
		},
		"a code and an ID of its own": {
			answered(said, &smithy.GenericAPIError{Code: said, Message: said}),
			"issuing: IAM CreateAccessKey: an error code that AWS does not document (status 403)",
		},
		"an ID of another form":  {answered(id, &smithy.GenericAPIError{Code: "InternalFailure"}), "issuing: IAM CreateAccessKey: InternalFailure (status 403)"},
		"no connection":          {call(&smithyhttp.RequestSendError{Err: fmt.Errorf("dialling: %w", syscall.ECONNREFUSED)}), "issuing: IAM CreateAccessKey: connection refused"},
		"no HTTP":                {call(&smithyhttp.RequestSendError{Err: errors.New("malformed HTTP response " + said)}), "issuing: IAM CreateAccessKey: no answer that is HTTP"},
		"a reply that is none":   {answered(id, &smithy.DeserializationError{Err: errors.New(said)}), "issuing: the reply is not one of AWS's API"},
		"no credentials":         {call(errors.New("get identity: " + said)), "issuing: IAM CreateAccessKey: no request was sent: are there credentials for the worker? Try: aws sts get-caller-identity"},
		"a code with a meaning ": {answered("", &smithy.GenericAPIError{Code: "AccessDenied", Message: said}), "issuing: denied: IAM CreateAccessKey: AccessDenied (status 403)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.EqualError(t, awsaccount.Error("issuing", c.err), c.want)
		})
	}
}
