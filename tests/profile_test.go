package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// front stands before a Temporal that knows neither TLS nor who calls, and demands both, as a cluster of
// one's own with mTLS does, and Temporal Cloud with mTLS or with an API key.
type front struct {
	address, ca, cert, key string
}

// apiKey is what a front without client certificates demands.
const apiKey = "an-api-key-of-this-test"

// newFront serves the Temporal at an address to who shows a certificate of our authority, or the API key.
func newFront(t *testing.T, temporal string, certificates bool) front {
	t.Helper()
	folder := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := func(name string, n int64) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	}
	root := template("authority of this test", 1)
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, root, root, &authority.PublicKey, authority)
	require.NoError(t, err)
	ca, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	f := front{ca: write("ca.pem", "CERTIFICATE", der)}
	issue := func(c *x509.Certificate) (certificate, key []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		certificate, err = x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, authority)
		require.NoError(t, err)
		key, err = x509.MarshalPKCS8PrivateKey(k)
		require.NoError(t, err)
		return certificate, key
	}
	server := template("temporal.example.com", 2)
	server.DNSNames, server.ExtKeyUsage = []string{"temporal.example.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert, key := issue(server)
	pair, err := tls.LoadX509KeyPair(write("server.pem", "CERTIFICATE", cert), write("server-key.pem", "PRIVATE KEY", key))
	require.NoError(t, err)
	config := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
	if certificates {
		client := template("keyturn", 3)
		client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		cert, key := issue(client)
		f.cert, f.key = write("client.pem", "CERTIFICATE", cert), write("client-key.pem", "PRIVATE KEY", key)
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AddCert(ca)
	}

	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: temporal}) },
		Transport:     &http.Transport{Protocols: &http2},
		FlushInterval: -1, // gRPC's streams
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	served := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !certificates && r.Header.Get("Authorization") != "Bearer "+apiKey {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "16") // unauthenticated
			w.Header().Set("Grpc-Message", "Request unauthorized.")
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = served.Serve(listener) }()
	t.Cleanup(func() { _ = served.Close() })
	f.address = "127.0.0.1:" + port(listener.Addr().String())
	return f
}

// A profile of Temporal's own configuration file leads worker and starter to a cluster that demands client
// certificates, or an API key.
func TestProfiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		certificates bool
		// refused is what is told to who has no certificate, or another key.
		refused string
	}{
		"mTLS":       {certificates: true, refused: "connecting to Temporal at"},
		"an API key": {refused: "Request unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := prepare(t)
			f := newFront(t, s.address, test.certificates)
			profile := func(name, apiKey, certificate string) string {
				return fmt.Sprintf("[profile.%s]\naddress = %q\nnamespace = %q\n%s\n[profile.%[1]s.tls]\nserver_name = \"temporal.example.com\"\nserver_ca_cert_path = %[5]q\n%[6]s\n",
					name, f.address, s.namespace, apiKey, f.ca, certificate)
			}
			text := profile("cluster", fmt.Sprintf("api_key = %q", apiKey), "") + profile("stranger", `api_key = "another"`, "")
			if test.certificates {
				text = profile("cluster", "", fmt.Sprintf("client_cert_path = %q\nclient_key_path = %q", f.cert, f.key)) + profile("stranger", "", "")
			}
			s.profiles = filepath.Join(t.TempDir(), "temporal.toml")
			require.NoError(t, os.WriteFile(s.profiles, []byte(text), 0o600))

			s.profile, s.flags = "stranger", []string{"--allow-unsigned"}
			out, code := s.starter("status")
			assert.Equal(t, 1, code, out)
			assert.Contains(t, out, test.refused)
			assert.NotContains(t, out, apiKey)

			s.profile = "cluster"
			s.startWorker()
			out, code = s.starter("rotate", credential, "-f", s.place.Inventory)
			require.Zero(t, code, out)
			s.await(workflows.PhaseRevokeGate)
			out, code = s.starter("approve", credential, "--gate", "revoke")
			require.Zero(t, code, out)
			assert.Equal(t, workflows.Completed, s.report().Outcome)
			s.nobodyRefused()
		})
	}
}
