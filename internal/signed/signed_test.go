package signed_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/signed"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func ed25519Key(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return signerOf(t, private)
}

func signerOf(t testing.TB, private any) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	return signer
}

func line(name, options string, k ssh.Signer) string {
	return strings.Join(strings.Fields(name+" "+options+" "+string(ssh.MarshalAuthorizedKey(k.PublicKey()))), " ") + "\n"
}

func signers(t testing.TB, lines ...string) signed.Signers {
	t.Helper()
	s, err := signed.ParseSigners([]byte(strings.Join(lines, "")))
	require.NoError(t, err)
	return s
}

func TestWhatIsSignedOpensForTheNamedSigner(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	large, err := rsa.GenerateKey(rand.Reader, 3072)
	require.NoError(t, err)
	for name, key := range map[string]ssh.Signer{"ed25519": ed25519Key(t), "ecdsa": signerOf(t, p256), "rsa": signerOf(t, large)} {
		e, err := signed.Sign(signed.Decision, map[string]any{"b": 1, "a": "<&>"}, key)
		require.NoError(t, err, name)
		body, by, err := e.Open(signed.Decision, signers(t, line("ann", "", ed25519Key(t)), line("bob", "", key)), noon)
		require.NoError(t, err, name)
		assert.Equal(t, `{"a":"<&>","b":1}`, string(body), name)
		assert.Equal(t, signed.Signer{Name: "bob", Key: ssh.FingerprintSHA256(key.PublicKey())}, by, name)
	}
}

func TestWhatDoesNotOpen(t *testing.T) {
	t.Parallel()
	key, other := ed25519Key(t), ed25519Key(t)
	good, err := signed.Sign(signed.Spec, map[string]string{"credential": "a"}, key)
	require.NoError(t, err)
	with := func(change func(*signed.Envelope)) signed.Envelope {
		e := good
		change(&e)
		return e
	}
	for name, c := range map[string]struct {
		envelope signed.Envelope
		allowed  string
		purpose  signed.Purpose
		want     error
		says     string
	}{
		"nothing signed":              {with(func(e *signed.Envelope) { e.Signature = "" }), line("ann", "", key), signed.Spec, signed.ErrNotSigned, ""},
		"a changed body":              {with(func(e *signed.Envelope) { e.Body = []byte(`{"credential":"b"}`) }), line("ann", "", key), signed.Spec, signed.ErrForged, ""},
		"another purpose":             {good, line("ann", "", key), signed.Decision, signed.ErrForged, "namespace"},
		"a signer whom nobody knows":  {good, line("ann", "", other), signed.Spec, signed.ErrUntrusted, "SHA256:"},
		"nobody is trusted":           {good, "", signed.Spec, signed.ErrUntrusted, ""},
		"a key for another purpose":   {good, line("ann", `namespaces="decision@keyturn.dev"`, key), signed.Spec, signed.ErrUntrusted, "ann may not sign for spec@keyturn.dev"},
		"a key that is not valid yet": {good, line("ann", `valid-after="20260502Z"`, key), signed.Spec, signed.ErrUntrusted, "valid from 2026-05-02"},
		"a key that is valid no more": {good, line("ann", `valid-before="20260501Z"`, key), signed.Spec, signed.ErrUntrusted, "valid until 2026-05-01"},
		"a signature that is nonsense": {with(func(e *signed.Envelope) {
			e.Signature = "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
		}), line("ann", "", key), signed.Spec, signed.ErrForged, ""},
		"an endless signature": {with(func(e *signed.Envelope) { e.Signature = strings.Repeat("A", 20<<10) }), line("ann", "", key), signed.Spec, signed.ErrForged, ""},
		"two values":           {with(func(e *signed.Envelope) { e.Body = []byte(`{"credential":"a"} {}`) }), line("ann", "", key), signed.Spec, nil, "more than one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, _, err := c.envelope.Open(c.purpose, signers(t, c.allowed), noon)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			assert.ErrorContains(t, err, c.says)
			assert.Empty(t, body)
		})
	}
}

func TestOneOfSeveralLinesOfAKeyIsEnough(t *testing.T) {
	t.Parallel()
	key := ed25519Key(t)
	e, err := signed.Sign(signed.Spec, 1, key)
	require.NoError(t, err)
	_, by, err := e.Open(signed.Spec, signers(t, line("old", `valid-before="20200101"`, key), line("ann", `valid-after="20200101",namespaces="spec@*"`, key)), noon)
	require.NoError(t, err)
	assert.Equal(t, "ann", by.Name)
}

// What reads and writes JSON on the way, as Temporal's converters, jq and browsers do, breaks nothing;
// what is returned is what was signed, also when a body says a key twice.
func TestASignatureSurvivesEveryFormOfTheSameBody(t *testing.T) {
	t.Parallel()
	key := ed25519Key(t)
	allowed := signers(t, line("ann", "", key))
	e, err := signed.Sign(signed.Spec, json.RawMessage("{\"n\": 1700000000000, \"text\": \"a<b>&c \u00e9 \u2028\", \"list\": [1.50, null]}"), key)
	require.NoError(t, err)
	var indented bytes.Buffer
	require.NoError(t, json.Indent(&indented, e.Body, "", "  "))
	wire, err := json.Marshal(e) // compacts, and escapes for HTML
	require.NoError(t, err)
	var arrived signed.Envelope
	require.NoError(t, json.Unmarshal(wire, &arrived))
	for _, body := range []string{string(e.Body), indented.String(), string(arrived.Body)} {
		got, _, err := signed.Envelope{Body: []byte(body), Signature: e.Signature}.Open(signed.Spec, allowed, noon)
		require.NoError(t, err)
		assert.Equal(t, string(e.Body), string(got))
	}
	twice := strings.Replace(string(e.Body), `"n":`, `"n":666,"n":`, 1)
	got, _, err := signed.Envelope{Body: []byte(twice), Signature: e.Signature}.Open(signed.Spec, allowed, noon)
	require.NoError(t, err)
	assert.NotContains(t, string(got), "666")
}

func TestCanonicalIsItsOwnCanonicalForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := map[string]any{rapid.String().Draw(t, "key"): rapid.String().Draw(t, "text"), "n": rapid.Int64().Draw(t, "n")}
		data, err := json.Marshal(value)
		require.NoError(t, err)
		once, err := signed.Canonical(data)
		require.NoError(t, err)
		again, err := signed.Canonical(once)
		require.NoError(t, err)
		assert.Equal(t, string(once), string(again))
		assert.JSONEq(t, string(data), string(once))
	})
}

func TestLinesThatNameNobodyAreRefusedAllAtOnce(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	good := ed25519Key(t)
	_, err = signed.ParseSigners([]byte("# people\n\n" + line("ann", "", good) +
		"*@example.com" + line("", "", good) + line("bob", "cert-authority", good) + "carl\ndora ssh-ed25519 nonsense\n" +
		line("eve", "", signerOf(t, small)) + line("fred", `valid-after="tomorrow"`, good)))
	require.Error(t, err)
	for _, says := range []string{"line 4: ", "not one name", "line 5: ", "cert-authority", "line 6: there is no key", "line 7: the key of dora", "line 8: the RSA key of eve", "line 9: ", "tomorrow"} {
		assert.ErrorContains(t, err, says)
	}
	assert.NotContains(t, err.Error(), "line 3")
}

func TestAFileThatOthersMayWriteIsNotTrusted(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "signers")
	require.NoError(t, os.WriteFile(file, []byte(line("ann", "", ed25519Key(t))), 0o600))
	s, err := signed.LoadSigners(file)
	require.NoError(t, err)
	assert.Equal(t, []string{"ann"}, s.Names())
	require.NoError(t, os.Chmod(file, 0o666))
	_, err = signed.LoadSigners(file)
	assert.ErrorContains(t, err, "chmod go-w")
}

// keygen runs the real ssh-keygen.
func keygen(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("ssh-keygen is missing: apt-get install openssh-client")
		}
		t.Skip("ssh-keygen is missing: apt-get install openssh-client")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

func TestSSHKeygenAndWeTakeEachOthersSignatures(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"ed25519", "ecdsa", "rsa"} {
		folder := t.TempDir()
		file := filepath.Join(folder, "key")
		keygen(t, nil, "-q", "-t", typ, "-N", "", "-f", file)
		key, done, err := signed.OpenKey(file, nil)
		require.NoError(t, err)
		defer done()
		allowed := line("ann", "", key)
		body, err := signed.Canonical([]byte(`{"credential": "payments-api", "generation": 1700000000000}`))
		require.NoError(t, err)

		path := filepath.Join(folder, "body")
		require.NoError(t, os.WriteFile(path, body, 0o600))
		keygen(t, nil, "-Y", "sign", "-f", file, "-n", string(signed.Spec), path)
		theirs, err := os.ReadFile(path + ".sig")
		require.NoError(t, err)
		_, by, err := signed.Envelope{Body: body, Signature: string(theirs)}.Open(signed.Spec, signers(t, allowed), time.Now())
		require.NoError(t, err, typ)
		assert.Equal(t, "ann", by.Name)

		ours, err := signed.Sign(signed.Spec, json.RawMessage(body), key)
		require.NoError(t, err)
		signature, list := filepath.Join(folder, "ours.sig"), filepath.Join(folder, "allowed_signers")
		require.NoError(t, os.WriteFile(signature, []byte(ours.Signature), 0o600))
		require.NoError(t, os.WriteFile(list, []byte(allowed), 0o600))
		out := keygen(t, ours.Body, "-Y", "verify", "-f", list, "-I", "ann", "-n", string(signed.Spec), "-s", signature)
		assert.Contains(t, out, `Good "spec@keyturn.dev" signature for ann`, typ)
	}
}

func TestKeysThatAreNotOpened(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	keygen(t, nil, "-q", "-t", "ed25519", "-N", "open sesame", "-f", file)

	asked := func(words string) func(string) ([]byte, error) {
		return func(string) ([]byte, error) { return []byte(words), nil }
	}
	_, _, err := signed.OpenKey(file, asked("open sesame"))
	require.NoError(t, err)
	_, _, err = signed.OpenKey(file, asked("guess"))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "guess")
	require.NoError(t, os.Chmod(file, 0o644))
	_, _, err = signed.OpenKey(file, asked("open sesame"))
	require.ErrorContains(t, err, "chmod 600")
	_, _, err = signed.OpenKey(filepath.Join(t.TempDir(), "none"), nil)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// The agent signs for a public key that is named, and by itself when it has one key only.
func TestKeysInTheAgent(t *testing.T) {
	folder, err := os.MkdirTemp("", "agent") // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	file, other, socket := filepath.Join(folder, "key"), filepath.Join(folder, "other"), filepath.Join(folder, "s")
	keygen(t, nil, "-q", "-t", "ed25519", "-N", "", "-f", file)
	keygen(t, nil, "-q", "-t", "ed25519", "-N", "", "-f", other)
	t.Setenv("SSH_AUTH_SOCK", "")
	_, _, err = signed.OpenKey(signed.FromAgent, nil)
	require.ErrorContains(t, err, "ssh-add")

	daemon := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	var complaints bytes.Buffer
	daemon.Stderr = &complaints
	said, err := daemon.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		if t.Failed() {
			t.Logf("ssh-agent said: %s", complaints.String())
		}
	})
	_, err = bufio.NewReader(said).ReadString('\n') // where it listens, once it does
	require.NoError(t, err)
	t.Setenv("SSH_AUTH_SOCK", socket)
	out, err := exec.CommandContext(t.Context(), "ssh-add", file).CombinedOutput()
	require.NoError(t, err, string(out))

	for _, name := range []string{file + ".pub", signed.FromAgent} {
		key, done, err := signed.OpenKey(name, nil)
		require.NoError(t, err, name)
		e, err := signed.Sign(signed.Decision, "yes", key)
		done()
		require.NoError(t, err)
		_, by, err := e.Open(signed.Decision, signers(t, line("ann", "", key)), noon)
		require.NoError(t, err)
		assert.Equal(t, "ann", by.Name)
	}
	_, _, err = signed.OpenKey(other+".pub", nil)
	require.ErrorContains(t, err, "it does not have")
	out, err = exec.CommandContext(t.Context(), "ssh-add", other).CombinedOutput()
	require.NoError(t, err, string(out))
	_, _, err = signed.OpenKey(signed.FromAgent, nil)
	assert.ErrorContains(t, err, "it has 2 keys")
}

func FuzzParseSigners(f *testing.F) {
	f.Add([]byte("ann ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2zTb8YvQyBq5yTjJY0mT0yJc2uTn2vKq7m0b2g3f4h\n"))
	f.Add([]byte("ann namespaces=\"a,b\",valid-after=\"20260101Z\" ssh-ed25519 AAAA"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := signed.ParseSigners(data)
		if err == nil {
			for _, name := range s.Names() {
				require.NotEmpty(t, name)
			}
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{"b":1,"a":[1.50,null,"<&>"]}`, `{"a":1,"a":2}`, `"\u2028\ud800"`, `1e999`, `[[[[`, `{} {}`, ` true `} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := signed.Canonical(data)
		if err != nil {
			require.Empty(t, once)
			return
		}
		again, err := signed.Canonical(once)
		require.NoError(t, err)
		require.Equal(t, string(once), string(again), "it is its own canonical form")
		require.Equal(t, numbered(t, data), numbered(t, once), "and says the same")
	})
}

// numbered reads JSON with its numbers as they stand.
func numbered(t *testing.T, data []byte) (value any) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&value))
	return value
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"a":1}`), "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n")
	key := ed25519Key(f)
	good, err := signed.Sign(signed.Spec, map[string]int{"a": 1}, key)
	require.NoError(f, err)
	f.Add([]byte(good.Body), good.Signature)
	allowed := signers(f, line("ann", "", key))
	f.Fuzz(func(t *testing.T, body []byte, signature string) {
		got, _, err := signed.Envelope{Body: body, Signature: signature}.Open(signed.Spec, allowed, noon)
		if err == nil {
			require.Equal(t, `{"a":1}`, string(got), "nothing else was ever signed")
		}
	})
}
