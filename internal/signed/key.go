package signed

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// FromAgent is the name under which OpenKey takes the one key that the SSH agent has.
const FromAgent = "agent"

// OpenKey opens the key to sign with: a private key file, a public key file whose private key the SSH
// agent holds, or FromAgent. passphrase is asked for the one of an encrypted file. Call done when the key
// is not needed any more.
func OpenKey(name string, passphrase func(file string) ([]byte, error)) (key ssh.Signer, done func(), err error) {
	if name == FromAgent {
		return fromAgent(nil)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, nil, fmt.Errorf("opening signing key: %w", err)
	}
	if info.Size() > maxSignature {
		return nil, nil, fmt.Errorf("opening signing key %s: it is too large for a key", name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, fmt.Errorf("opening signing key: %w", err)
	}
	defer clear(data)
	if public, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		return fromAgent(public)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("opening signing key %s: its mode %04o lets others read it; run: chmod 600 %s", name, info.Mode().Perm(), name)
	}
	key, err = ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		words, asked := passphrase(name)
		if asked != nil {
			return nil, nil, fmt.Errorf("opening signing key %s: %w", name, asked)
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(data, words)
		clear(words)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening signing key %s: %w; for a hardware key, add it to the agent and name its .pub file", name, err)
	}
	return key, func() {}, nil
}

// fromAgent finds a key in the agent: the given one, or the only one.
func fromAgent(public ssh.PublicKey) (ssh.Signer, func(), error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, nil, errors.New("opening signing key: there is no SSH agent (SSH_AUTH_SOCK is empty); start one and run ssh-add, or name a private key file")
	}
	connection, err := net.Dial("unix", socket) //nolint:gosec,noctx // a socket on this host, and the user's own environment names the user's own agent
	if err != nil {
		return nil, nil, fmt.Errorf("asking the SSH agent: %w", err)
	}
	done := func() { _ = connection.Close() }
	keys, err := agent.NewClient(connection).Signers()
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("asking the SSH agent: %w", err)
	}
	var names []string
	for _, k := range keys {
		if public != nil && bytes.Equal(k.PublicKey().Marshal(), public.Marshal()) {
			return k, done, nil
		}
		names = append(names, ssh.FingerprintSHA256(k.PublicKey()))
	}
	if public == nil && len(keys) == 1 {
		return keys[0], done, nil
	}
	done()
	if public == nil {
		return nil, nil, fmt.Errorf("asking the SSH agent: it has %d keys; name the .pub file of the one to sign with", len(keys))
	}
	return nil, nil, fmt.Errorf("asking the SSH agent: it does not have %s, only %s; run ssh-add", ssh.FingerprintSHA256(public), strings.Join(names, ", "))
}
