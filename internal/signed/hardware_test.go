package signed_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/signed"
)

// hardware signs as a security key does, by PROTOCOL.u2f of OpenSSH: over the digest of what is signed, with flags that say whether
// somebody touched it.
type hardware struct {
	public ssh.PublicKey
	key    ed25519.PrivateKey
	flags  byte
}

func (h hardware) PublicKey() ssh.PublicKey { return h.public }

func (h hardware) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	application, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	rest := []byte{h.flags, 0, 0, 0, 7}
	blob := append(append(application[:], rest...), message[:]...)
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(h.key, blob), Rest: rest}, nil
}

// The signature of a security key counts when somebody touched it.
func TestASecurityKeyWantsATouch(t *testing.T) {
	t.Parallel()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	wire := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, "ssh:"})
	parsed, err := ssh.ParsePublicKey(wire)
	require.NoError(t, err)
	line := "sk-ssh-ed25519@openssh.com " + base64.StdEncoding.EncodeToString(wire) + "\n"
	allowed, err := signed.ParseSigners([]byte("ann " + line))
	require.NoError(t, err)

	const touched, untouched = 1, 0
	e, err := signed.Sign(signed.Decision, map[string]any{"a": 1}, hardware{parsed, key, touched})
	require.NoError(t, err)
	_, by, err := e.Open(signed.Decision, allowed, time.Now())
	require.NoError(t, err)
	assert.Equal(t, "ann", by.Name)
	e, err = signed.Sign(signed.Decision, map[string]any{"a": 1}, hardware{parsed, key, untouched})
	require.NoError(t, err)
	_, _, err = e.Open(signed.Decision, allowed, time.Now())
	require.ErrorContains(t, err, "user presence")
	_, err = signed.ParseSigners([]byte("ann no-touch-required " + line))
	require.ErrorContains(t, err, `option "no-touch-required" is not known here`)
}
