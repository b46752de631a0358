package demo

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/signed"
)

// SigningKey is the private key that the sandbox signs with, Signers the file of those whom its worker trusts.
func (f Folder) SigningKey() string { return f.in("signing-key") }

// Signers is an allowed signers file, as ssh-keygen has them.
func (f Folder) Signers() string { return f.in("allowed-signers") }

// Signer opens the key to sign with; call done when it is not needed any more.
func (f Folder) Signer() (key ssh.Signer, done func(), err error) {
	return signed.OpenKey(f.SigningKey(), func(string) ([]byte, error) { return nil, errors.New("it has no passphrase") })
}

// makeSigner makes a key to sign with, unless there is one.
func (f Folder) makeSigner() error {
	if _, err := os.Stat(f.Signers()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "keyturn sandbox")
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(block)
	defer clear(text)
	if err := renameio.WriteFile(f.SigningKey(), text, 0o600); err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	return renameio.WriteFile(f.Signers(), append([]byte("sandbox "), ssh.MarshalAuthorizedKey(key)...), 0o600)
}
