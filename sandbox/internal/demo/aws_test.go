package demo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// IAM may refuse a new key for some seconds, and it is AWSPENDING by then.
func TestTheCanaryTakesAPendingKeyOnceThatWorks(t *testing.T) {
	t.Parallel()
	var pending, works atomic.Bool
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ VersionStage string }
		switch {
		case r.Header.Get("X-Amz-Target") == "":
			if strings.Contains(r.Header.Get("Authorization"), "AKIAINCOMING") && !works.Load() {
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprint(w, "<ErrorResponse><Error><Code>InvalidClientTokenId</Code></Error></ErrorResponse>")
				return
			}
			_, _ = fmt.Fprint(w, "<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>")
		case json.NewDecoder(r.Body).Decode(&asked) == nil && asked.VersionStage == "AWSCURRENT":
			_, _ = fmt.Fprint(w, `{"SecretString": "{\"AccessKeyId\": \"AKIARETIRING\", \"SecretAccessKey\": \"s\"}"}`)
		case pending.Load():
			_, _ = fmt.Fprint(w, `{"SecretString": "{\"AccessKeyId\": \"AKIAINCOMING\", \"SecretAccessKey\": \"s\"}"}`)
		default:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, `{"__type": "ResourceNotFoundException"}`)
		}
	}))
	t.Cleanup(cloud.Close)
	c := aws.Config{Region: "us-east-1", BaseEndpoint: &cloud.URL, Credentials: credentials.NewStaticCredentialsProvider("AKIASERVICE", "s", "")}
	canary := &pulled{config: c, secrets: secretsmanager.NewFromConfig(c), labels: []string{"AWSPENDING", "AWSCURRENT"}}
	require.NoError(t, canary.refresh(t.Context()))
	assert.Equal(t, "AKIARETIRING", canary.key())
	pending.Store(true)
	require.ErrorContains(t, canary.refresh(t.Context()), "trying key AKIAINCOMING, which is pending")
	assert.Equal(t, "AKIARETIRING", canary.key(), "the key in use stays")
	works.Store(true)
	require.NoError(t, canary.refresh(t.Context()))
	assert.Equal(t, "AKIAINCOMING", canary.key())
}
