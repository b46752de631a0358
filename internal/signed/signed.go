// Package signed is the one envelope for what must be proved: a JSON body with an SSH signature in the
// sshsig format, so that people sign with the keys that they have, and check with ssh-keygen -Y verify.
package signed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Purpose is the sshsig namespace of a kind of body: a signature made for one is worth nothing for
// another.
type Purpose string

// The purposes.
const (
	// Spec is one credential's part of an inventory.
	Spec Purpose = "spec@keyturn.dev"
	// Decision is an approval, a rejection or another request to a running rotation.
	Decision Purpose = "decision@keyturn.dev"
	// Incident is the declaration that keys are exposed.
	Incident Purpose = "incident@keyturn.dev"
	// Review says that somebody looked at what an incident did.
	Review Purpose = "review@keyturn.dev"
)

// The sentinels. Signing the same body again, by somebody who is trusted, mends each of them.
var (
	// ErrNotSigned: there is no signature.
	ErrNotSigned = errors.New("not signed")
	// ErrForged: the signature is not one of this body for this purpose.
	ErrForged = errors.New("the signature does not hold")
	// ErrUntrusted: the signature holds, and its signer is not allowed, or not now.
	ErrUntrusted = errors.New("the signer is not trusted")
)

// maxBody and maxSignature bound what is read of an envelope that anybody may have written.
const (
	maxBody      = 1 << 20
	maxSignature = 16 << 10
)

// Envelope is a body as it travels.
type Envelope struct {
	// Body is a JSON value. The signature is one of its canonical form, so that no hop on the way that
	// reads and writes JSON breaks it.
	Body json.RawMessage `json:"body"`
	// Signature is armoured, as ssh-keygen -Y sign writes it; empty for none.
	Signature string `json:"signature,omitempty"`
}

// Canonical is the form of a JSON value that is signed: object keys sorted, no space between tokens,
// numbers as they stand, characters unescaped but for control characters, quote, backslash, U+2028 and
// U+2029. ssh-keygen signs the same when it is given a file of exactly these bytes.
func Canonical(body []byte) ([]byte, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("reading signed body: it has more than %d bytes", maxBody)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("reading signed body: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading signed body: there is more than one JSON value")
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("reading signed body: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Sign makes the envelope of a body, which is marshalled as JSON.
func Sign(p Purpose, body any, with ssh.Signer) (Envelope, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return Envelope{}, fmt.Errorf("signing: %w", err)
	}
	canonical, err := Canonical(data)
	if err != nil {
		return Envelope{}, fmt.Errorf("signing: %w", err)
	}
	signature, err := sshsig.Sign(bytes.NewReader(canonical), with, sshsig.HashSHA512, string(p))
	if err != nil {
		return Envelope{}, fmt.Errorf("signing with %s: %w", ssh.FingerprintSHA256(with.PublicKey()), err)
	}
	return Envelope{Body: canonical, Signature: string(sshsig.Armor(signature))}, nil
}

// Open returns the body of an envelope, in its canonical form, once one of the allowed signers has
// provably signed it for the purpose, and who that is. Only what Open returns is proved: an envelope's
// own Body may say the same key twice.
func (e Envelope) Open(p Purpose, allowed Signers, at time.Time) ([]byte, Signer, error) {
	if e.Signature == "" {
		return nil, Signer{}, ErrNotSigned
	}
	if len(e.Signature) > maxSignature {
		return nil, Signer{}, fmt.Errorf("%w: it has more than %d bytes", ErrForged, maxSignature)
	}
	signature, err := sshsig.Unarmor([]byte(e.Signature))
	if err != nil {
		return nil, Signer{}, fmt.Errorf("%w: %w", ErrForged, err)
	}
	canonical, err := Canonical(e.Body)
	if err != nil {
		return nil, Signer{}, err
	}
	if err := sshsig.Verify(bytes.NewReader(canonical), signature, signature.PublicKey, signature.HashAlgorithm, string(p)); err != nil {
		return nil, Signer{}, fmt.Errorf("%w: %w", ErrForged, err)
	}
	by, err := allowed.find(signature.PublicKey, p, at)
	if err != nil {
		return nil, Signer{}, err
	}
	return canonical, by, nil
}

// KeyFingerprint names the key that the signature says it was made with, as ssh-keygen -l does; empty for no
// signature. Nothing is proved by it.
func (e Envelope) KeyFingerprint() (string, error) {
	if e.Signature == "" {
		return "", nil
	}
	if len(e.Signature) > maxSignature {
		return "", fmt.Errorf("%w: it has more than %d bytes", ErrForged, maxSignature)
	}
	signature, err := sshsig.Unarmor([]byte(e.Signature))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrForged, err)
	}
	return ssh.FingerprintSHA256(signature.PublicKey), nil
}
