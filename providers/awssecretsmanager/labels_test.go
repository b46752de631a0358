package awssecretsmanager

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/providers"
)

// versionIDs are those of keyturn's versions, in JSON.
var versionIDs = regexp.MustCompile(`(?i)[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|"[0-9a-f]{32}"|` + placeholder)

// shouting stands before moto, compares tokens without regard to case, as Secrets Manager does, and answers with all of them in
// capitals.
func (w *world) shouting(t *testing.T) (endpoint string) {
	t.Helper()
	c, err := w.account.Config(t.Context())
	require.NoError(t, err)
	credentials, err := c.Credentials.Retrieve(t.Context())
	require.NoError(t, err)
	behind, err := url.Parse(w.Endpoint)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(behind)
			sent, err := io.ReadAll(r.In.Body)
			assert.NoError(t, err)
			sent = versionIDs.ReplaceAllFunc(sent, bytes.ToLower)
			r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
			sum := sha256.Sum256(sent)
			r.Out.Header.Del("Authorization")
			assert.NoError(t, v4.NewSigner().SignHTTP(t.Context(), credentials, r.Out, hex.EncodeToString(sum[:]), "secretsmanager", moto.Region, time.Now()))
		},
		ModifyResponse: func(r *http.Response) error {
			answered, err := io.ReadAll(r.Body)
			answered = versionIDs.ReplaceAllFunc(answered, bytes.ToUpper)
			r.Body = io.NopCloser(bytes.NewReader(answered))
			return err
		},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

func shouted(t *testing.T, w *world) {
	name := w.name()
	s := w.open(name)
	s.account = &awsaccount.Account{Endpoint: w.shouting(t)}

	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	for generation := range int64(3) {
		m.Generation = generation
		written, err := s.PutMetadata(t.Context(), m)
		require.NoError(t, err)
		again, err := s.PutMetadata(t.Context(), m)
		require.NoError(t, err, "its reply got lost")
		assert.Equal(t, written, again)
		m, err = s.Metadata(t.Context())
		require.NoError(t, err)
		assert.Equal(t, key.Metadata{Generation: generation, Revision: written}, m)
	}

	first, err := s.Stage(t.Context(), tokenA, keyOf("first"))
	require.NoError(t, err)
	again, err := s.Stage(t.Context(), tokenA, keyOf("first"))
	require.NoError(t, err)
	assert.Equal(t, first, again)
	versions, err := s.Versions(t.Context())
	require.NoError(t, err)
	require.Len(t, versions, 1, "the placeholder is never listed")
	assert.Equal(t, first, versions[0].ID, "a version has one name")
	require.NoError(t, s.Promote(t.Context(), "", tokenA))
	require.NoError(t, s.Promote(t.Context(), "", tokenA), "it is so already")
	assert.Equal(t, map[string][]string{tokenA: {awsCurrent}}, w.Stages(name))

	second, err := s.Stage(t.Context(), tokenB, keyOf("second"))
	require.NoError(t, err)
	require.NoError(t, s.Promote(t.Context(), strings.ToLower(first), second))
	require.NoError(t, s.Prune(t.Context(), strings.ToLower(first)))
	require.NoError(t, s.Prune(t.Context(), strings.ToLower(first)))
	assert.Equal(t, map[string][]string{tokenB: {awsCurrent}}, w.Stages(name))
}

// What AWS answers is not what counts: it may say yes, and the label is elsewhere, since somebody moved it.
func swallowed(t *testing.T, w *world) {
	const moving = "secretsmanager:UpdateSecretVersionStage"
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x"}`)
	s := w.open(name)
	versions, err := s.Versions(t.Context())
	require.NoError(t, err)
	old := versions[0].ID
	_, err = s.Stage(t.Context(), tokenA, keyOf("new"))
	require.NoError(t, err)

	w.Swallow(moving, 0, 1)
	require.ErrorIs(t, s.Promote(t.Context(), old, tokenA), providers.ErrConflict)
	assert.Equal(t, map[string][]string{old: {awsCurrent}, tokenA: {awsPending}}, w.Stages(name))

	w.Swallow(moving, 1, 1)
	require.ErrorIs(t, s.Promote(t.Context(), old, tokenA), providers.ErrConflict, "PENDING is left")
	versions, err = s.Versions(t.Context())
	require.NoError(t, err)
	assert.ElementsMatch(t, []key.Label{key.Current, key.Pending}, versions[1].Labels)
	require.NoError(t, s.Promote(t.Context(), old, tokenA))
	assert.Equal(t, map[string][]string{old: {awsPrevious}, tokenA: {awsCurrent}}, w.Stages(name))

	w.Swallow(moving, 0, 1)
	require.ErrorIs(t, s.Promote(t.Context(), tokenA, old), providers.ErrConflict, "nor on the way back, to who is PREVIOUS")

	w.Swallow(moving, 0, 1)
	require.ErrorIs(t, s.Prune(t.Context(), old), providers.ErrConflict)
	require.NoError(t, s.Prune(t.Context(), old))
	assert.Equal(t, map[string][]string{tokenA: {awsCurrent}}, w.Stages(name))

	s.putOver(t, large(1))
	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	m.Generation = 8
	w.Swallow(moving, 0, 1)
	_, err = s.PutMetadata(t.Context(), m)
	require.ErrorIs(t, err, providers.ErrConflict)
	s.keeps(t, large(1))
	_, err = s.PutMetadata(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, large(1).Debt, m.Debt)
}

// A rotation of somebody else's that failed left a label without a value, which Secrets Manager does not find then.
func hollow(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x"}`)
	_, err := w.Secrets().PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
		SecretId: &name, ClientRequestToken: aws.String(tokenB), SecretString: aws.String("nobody gets it"), VersionStages: []string{awsPending},
	})
	require.NoError(t, err)
	s := w.open(name)
	versions, err := s.Versions(t.Context())
	require.NoError(t, err)
	require.Len(t, versions, 2, "it is listed")

	w.Refuse("secretsmanager:GetSecretValue", "ResourceNotFoundException", 0, 2)
	_, err = s.Read(t.Context(), tokenB)
	require.ErrorIs(t, err, providers.ErrNotFound)
	_, err = s.ReadLabel(t.Context(), key.Pending)
	require.ErrorIs(t, err, providers.ErrNotFound)

	w.Refuse("secretsmanager:GetSecretValue", "ResourceNotFoundException", 0, 1)
	staged, err := s.Stage(t.Context(), tokenA, keyOf("new"))
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{versions[0].ID: {awsCurrent}, staged: {awsPending}}, w.Stages(name), "the label is the new key's")
}

func TestALabelIsMoved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		labels          map[string][]string
		stage, from, to string
		want            bool
	}{
		"when it is where it was moved to":                       {map[string][]string{"b": {awsCurrent}}, awsCurrent, "a", "b", true},
		"in whatever case that is spelled":                       {map[string][]string{"B": {awsCurrent}}, awsCurrent, "a", "b", true},
		"not when it is where it was":                            {map[string][]string{"a": {awsCurrent}, "b": {awsPending}}, awsCurrent, "a", "b", false},
		"when somebody moved CURRENT on":                         {map[string][]string{"c": {awsCurrent}, "b": {awsPrevious}}, awsCurrent, "a", "b", true},
		"not when somebody moved PENDING on":                     {map[string][]string{"c": {awsPending}, "b": {awsPrevious}}, awsPending, "a", "b", false},
		"when it is taken":                                       {map[string][]string{"a": {awsCurrent}}, awsPending, "a", "", true},
		"when its version has gone with it":                      {map[string][]string{}, awsPending, "a", "", true},
		"when it is taken, and somebody gave it to another":      {map[string][]string{"a": {awsCurrent}, "b": {awsPending}}, awsPending, "a", "", true},
		"not when it is still on the one that it was taken from": {map[string][]string{"a": {awsCurrent, awsPending}}, awsPending, "a", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, moved(c.labels, c.stage, c.from, c.to))
		})
	}
}
