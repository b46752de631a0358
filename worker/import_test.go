package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/workerconfig"
	gatewayissuer "github.com/keyturn/keyturn/providers/gateway"
)

const importInventory = `
apiVersion: keyturn/v1
inventory: payments
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: test
    overlap: 1h
    quietWindow: 30m
    approvals: {revoke: {count: 1, trust: any}}
    issuer: {type: gateway, account: edge, principal: payments-api}
    store: {type: file, account: vault, path: payments-api}
    consumers:
      - name: checkout
        target: {type: file, path: "%[1]s/checkout/payments-api"}
        check: {type: http, url: "%[2]s/healthz"}
        attestation: {type: http, url: "%[2]s/keyturn", pointer: /key}
`

const importConfig = `
apiVersion: keyturn/worker/v1
accounts: {edge: {type: gateway, keyFile: "%[1]s/keys.json"}, vault: {type: file, root: "%[1]s/store"}}
bounds: {test: {principals: ["payments-*"], storePaths: ["payments-*"], fileRoots: ["%[1]s/checkout"], hosts: ["%[3]s"]}}
audit: {file: "%[1]s/audit.jsonl"}
`

// importKeyInUse is what the consumer of a place uses.
const importKeyInUse = "sk-live-4f9c1e7a2b8d60c35e91"

// place is a folder with what an import needs, and a consumer that states its key.
type place struct {
	t      *testing.T
	folder string
}

func newPlace(t *testing.T) place {
	t.Helper()
	inUse := secret.Single(secret.New([]byte(importKeyInUse))).Fingerprint()
	consumer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		assert.NoError(t, json.NewEncoder(w).Encode(map[string]string{"key": inUse}))
	}))
	t.Cleanup(consumer.Close)
	p := place{t, t.TempDir()}
	for _, folder := range []string{"store", "checkout"} {
		require.NoError(t, os.Mkdir(filepath.Join(p.folder, folder), 0o700))
	}
	for file, text := range map[string]string{"inventory.yaml": importInventory, "keyturn-worker.yaml": importConfig} {
		text = fmt.Sprintf(text+"# %[1]s %[2]s %[3]s\n", p.folder, consumer.URL, strings.TrimPrefix(consumer.URL, "http://"))
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, file), []byte(text), 0o600))
	}
	return p
}

// imports runs the command with the key on a file descriptor.
func (p place) imports(key string, flags ...string) (out, errOut string, code int) {
	p.t.Helper()
	r, w, err := os.Pipe()
	require.NoError(p.t, err)
	_, err = w.WriteString(key)
	require.NoError(p.t, err)
	require.NoError(p.t, w.Close())
	fd, err := syscall.Dup(int(r.Fd())) // which the command closes
	require.NoError(p.t, err)
	require.NoError(p.t, r.Close())
	args := []string{"import", "payments-api", "-f", filepath.Join(p.folder, "inventory.yaml"), "--config", filepath.Join(p.folder, "keyturn-worker.yaml"), "--fd", fmt.Sprint(fd)}
	var said, complained bytes.Buffer
	code = run(p.t.Context(), append(args, flags...), &said, &complained)
	return said.String(), complained.String(), code
}

func TestAKeyIsImportedFromAFileDescriptor(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	out, errOut, code := p.imports(importKeyInUse+"\n", "--allow-unsigned", "--key", "key-2024")
	require.Equal(t, exitDone, code, errOut)
	assert.Contains(t, out, "made "+p.folder+"/keys.json")
	assert.Contains(t, out, "key key-2024 of payments-api is CURRENT")
	verifier, err := gateway.OpenVerifier(filepath.Join(p.folder, "keys.json"), "")
	require.NoError(t, err)
	defer func() { _ = verifier.Close() }()
	_, accepted := verifier.Verify(importKeyInUse)
	assert.True(t, accepted)

	again, errOut, code := p.imports(importKeyInUse, "--allow-unsigned", "-o", "json")
	require.Equal(t, exitDone, code, errOut)
	var imported activities.Imported
	require.NoError(t, json.Unmarshal([]byte(again), &imported))
	assert.Equal(t, "key-2024", imported.Key.KeyID, "the issuer knows it now")
	record, err := os.ReadFile(filepath.Join(p.folder, "audit.jsonl"))
	require.NoError(t, err)
	assert.Contains(t, string(record), "key.imported")
	for _, text := range []string{out, again, errOut, string(record)} {
		assert.NotContains(t, text, importKeyInUse[8:])
	}
}

func TestAnImportThatIsRefusedSaysWhy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key   string
		flags []string
		code  int
		says  string
	}{
		"an unsigned spec":                      {importKeyInUse, []string{"--key", "k"}, exitRefused, "unsigned"},
		"another key than the consumer's":       {"sk-live-4f9c1e7a2b8d60c35e92", []string{"--key", "k", "--allow-unsigned"}, exitRefused, "checkout states key"},
		"a key that nobody names":               {importKeyInUse, []string{"--allow-unsigned"}, exitUsage, "it needs one"},
		"an empty key":                          {"\n", []string{"--key", "k", "--allow-unsigned"}, exitUsage, "it is empty"},
		"a file descriptor that is not open":    {importKeyInUse, []string{"--key", "k", "--allow-unsigned", "--fd", "9999"}, exitUsage, "cannot be read"},
		"a file descriptor for what is said":    {importKeyInUse, []string{"--fd", "1"}, exitUsage, "--fd"},
		"a credential that the file has not":    {importKeyInUse, []string{"-f", "/dev/null"}, exitUsage, "/dev/null"},
		"a file that is not there":              {importKeyInUse, []string{"-f", "/none.yaml"}, exitUsage, "none.yaml"},
		"a configuration that is not there":     {importKeyInUse, []string{"--config", "/none.yaml"}, exitUsage, "none.yaml"},
		"a format that is none":                 {importKeyInUse, []string{"-o", "xml"}, exitUsage, "--output"},
		"a key to sign with that is not there":  {importKeyInUse, []string{"--sign", "/none"}, exitUsage, "/none"},
		"no file descriptor and no terminal":    {importKeyInUse, []string{"--fd", "-1", "--allow-unsigned"}, exitUsage, "no terminal"},
		"a key on the command line, by mistake": {importKeyInUse, []string{"a-second-argument"}, exitUsage, "name one credential"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			out, errOut, code := p.imports(c.key, c.flags...)
			assert.Equal(t, c.code, code, errOut)
			assert.Contains(t, errOut, c.says)
			assert.Empty(t, out)
			assert.NotContains(t, errOut, "sk-live")
		})
	}
}

func TestWhatIsReadAsAKey(t *testing.T) {
	t.Parallel()
	one, two := []string{secret.ValueField}, []string{"accessKeyId", "secretAccessKey"}
	for name, c := range map[string]struct {
		data   string
		fields []string
		want   []string
	}{
		"a text":                           {"abc", one, []string{"abc"}},
		"a final line break is none of it": {"abc\r\n", one, []string{"abc"}},
		"one of two line breaks is":        {"abc\n\n", one, []string{"abc\n"}},
		"blanks are":                       {" abc ", one, []string{" abc "}},
		"nothing":                          {"", one, nil},
		"an object":                        {`{"accessKeyId": "AKIA", "secretAccessKey": "s"}` + "\n", two, []string{"AKIA", "s"}},
		"an object that lacks a field":     {`{"accessKeyId": "AKIA"}`, two, nil},
		"an object with an empty field":    {`{"accessKeyId": "AKIA", "secretAccessKey": ""}`, two, nil},
		"an object with a foreign field":   {`{"accessKeyId": "AKIA", "secretAccessKey": "s", "hunter2": "x"}`, two, nil},
		"a text where fields are wanted":   {"hunter2", two, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := parseKey([]byte(c.data), c.fields)
			if c.want == nil {
				require.Error(t, err)
				assert.NotContains(t, err.Error(), "hunter2")
				return
			}
			require.NoError(t, err)
			for i, field := range c.fields {
				v, _ := b.Field(field)
				assert.Equal(t, c.want[i], string(v.Reveal()))
			}
		})
	}
}

// A file that is replaced belongs to whoever replaces it: root takes none away from the user as whom worker and gateway run.
func TestRootImportsIntoNoFilesOfOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away; run the tests as root")
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(keys, []byte("{}"), 0o600))
	config := &workerconfig.Config{Accounts: map[string]workerconfig.Account{"edge": {Type: "gateway", Settings: &gatewayissuer.Account{KeyFile: keys, UsageFile: keys + ".usage"}}}}
	require.NoError(t, asTheirOwner(config, 0))
	require.NoError(t, os.Chown(keys, 1234, 1234))
	require.ErrorContains(t, asTheirOwner(config, 0), "belongs to user 1234, and would be root's: run the import as that user")
	require.NoError(t, asTheirOwner(config, 1234))
}
