package secret_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/secret"
)

// vectors were computed with the command in the comment of the package, by printf and sha256sum.
var vectors = map[string]string{
	"ktg_AAAABBBBCCCCDDDD_EEEEFFFFGGGGHHHHIIIIJJJJKKKKLLLLMMMMNNNNOOOOPPPPQQQQ012345": "f7eb22ae26cb7fabdea1696b27fc23e7",
	"0123456789abcdef0123456789abcdef":                                                "34d7303b39ffcc40fd3f373719184680",
	"Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4QUJDREVGRw==":                                    "b751d2e15be4a788b192b06f36fbe032",
}

func TestFingerprintVectors(t *testing.T) {
	t.Parallel()
	for value, want := range vectors {
		assert.Equal(t, "fp:"+want, secret.Single(secret.New([]byte(value))).Fingerprint(), value)
	}
}

func TestAConsumerComputesTheFingerprintInShell(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sha256sum"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("sha256sum is missing: apt-get install coreutils")
		}
		t.Skip("sha256sum is missing: apt-get install coreutils")
	}
	for value := range vectors {
		cmd := exec.Command("sh", "-c", `printf 'keyturn/fingerprint/v1\0value\0%s\0' "$KEY" | sha256sum | cut -c1-32`)
		cmd.Env, cmd.Stderr = append(cmd.Environ(), "KEY="+value), os.Stderr
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.Equal(t, "fp:"+strings.TrimSpace(string(out)), secret.Single(secret.New([]byte(value))).Fingerprint())
	}
}

func TestASecretOfLessThan128BitsHasNoFingerprint(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value string
		has   bool
	}{
		"an empty one":                                  {"", false},
		"31 hexadecimal digits hold 124 bits":           {"0123456789abcdef0123456789abcde", false},
		"32 hexadecimal digits hold 128 bits":           {"0123456789abcdef0123456789abcdef", true},
		"38 decimal digits hold 126 bits":               {strings.Repeat("0123456789", 4)[:38], false},
		"39 decimal digits hold 129 bits":               {strings.Repeat("0123456789", 4)[:39], true},
		"21 characters of Base64 hold 126 bits":         {"ABCDEFGHIJabcdefghij0", false},
		"22 characters of Base64 hold 132 bits":         {"ABCDEFGHIJabcdefghij01", true},
		"a long one of few characters is a pass phrase": {strings.Repeat("abcabca", 40), false},
		"a password": {"Tr0ub4dor&3", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fp := secret.Single(secret.New([]byte(c.value))).Fingerprint()
			assert.Equal(t, c.has, fp != "", fp)
			assert.Equal(t, c.has, secret.IsFingerprint(fp))
		})
	}
}

func TestFingerprintsTellBundlesApart(t *testing.T) {
	t.Parallel()
	// Two bundles whose names and values run into the same bytes without the separators.
	strong := "0123456789abcdef0123456789abcdef"
	a := secret.NewBundle(map[string]secret.Value{"a": secret.New([]byte("b" + strong))})
	b := secret.NewBundle(map[string]secret.Value{"ab": secret.New([]byte(strong))})
	assert.NotEqual(t, a.Fingerprint(), b.Fingerprint())
	assert.NotEqual(t, a.Fingerprint(), a.With(b).Fingerprint())

	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 32, 64)
		x, y := key.Draw(t, "x"), key.Draw(t, "y")
		fx, again, fy := secret.Single(secret.New(x)).Fingerprint(), secret.Single(secret.New(x)).Fingerprint(), secret.Single(secret.New(y)).Fingerprint()
		assert.Equal(t, fx, again, "the same bundle, the same fingerprint")
		if string(x) != string(y) && fx != "" {
			assert.NotEqual(t, fx, fy)
		}
	})
}

func TestIsFingerprint(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"fp:0123456789abcdef0123456789abcdef": true, "fp:0123456789ABCDEF0123456789ABCDEF": false, "fp:0123": false, "": false,
		"0123456789abcdef0123456789abcdef": false, "fp:0123456789abcdef0123456789abcdef\n": false,
	} {
		assert.Equal(t, want, secret.IsFingerprint(text), text)
	}
}
