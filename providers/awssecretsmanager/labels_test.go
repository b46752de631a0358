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

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
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
