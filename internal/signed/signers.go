package signed

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Signer is who signed.
type Signer struct {
	// Name is the principal of the allowed signers file. Two keys of one name are one person.
	Name string `json:"name"`
	// Key is the SHA-256 fingerprint of the key that was used.
	Key string `json:"key"`
}

// Same tells whether two signers may be one person: they have a name, or a key, in common. Nobody is the same as nobody.
func (s Signer) Same(other Signer) bool {
	return s.Name != "" && s.Name == other.Name || s.Key != "" && s.Key == other.Key
}

// Signers are the keys that may sign, as an OpenSSH allowed signers file names them.
type Signers []allowedKey

type allowedKey struct {
	name       string
	key        ssh.PublicKey
	namespaces []string
	after      time.Time
	before     time.Time
}

// minRSABits is the least that an RSA key must have: what NIST SP 800-57 asks for beyond 2030.
const minRSABits = 3072

// LoadSigners reads an allowed signers file (ssh-keygen(1), "ALLOWED SIGNERS"). A file that others may
// write is refused: who writes it says who is trusted.
func LoadSigners(file string) (Signers, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading allowed signers: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading allowed signers: %w", err)
	}
	switch {
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("reading allowed signers %s: its mode %04o lets others write it; run: chmod go-w %s", file, info.Mode().Perm(), file)
	case info.Size() > maxBody:
		return nil, fmt.Errorf("reading allowed signers %s: it has more than %d bytes", file, maxBody)
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(f); err != nil {
		return nil, fmt.Errorf("reading allowed signers: %w", err)
	}
	signers, err := ParseSigners(data.Bytes())
	if err != nil {
		return nil, fmt.Errorf("reading allowed signers %s: %w", file, err)
	}
	return signers, nil
}

// ParseSigners reads the lines of an allowed signers file: a name, options, a key. The options
// namespaces, valid-after and valid-before hold. Certificate authorities, patterns as names and weak keys
// are refused: each key must name one person. The error has every bad line.
func ParseSigners(data []byte) (Signers, error) {
	var signers Signers
	var wrong []error
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxBody)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := parseSigner(line)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		signers = append(signers, k)
	}
	return signers, errors.Join(append(wrong, lines.Err())...)
}

func parseSigner(line string) (allowedKey, error) {
	name, rest, _ := strings.Cut(line, " ")
	switch {
	case strings.ContainsAny(name, `*?!",`):
		return allowedKey{}, fmt.Errorf("%q is not one name; write one person a line", name)
	case strings.TrimSpace(rest) == "":
		return allowedKey{}, errors.New("there is no key; write: name ssh-ed25519 AAAA…")
	}
	public, _, options, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(rest)))
	if err != nil {
		return allowedKey{}, fmt.Errorf("the key of %s cannot be read; write: name ssh-ed25519 AAAA…", name)
	}
	k := allowedKey{name: name, key: public}
	for _, option := range options {
		keyword, value, _ := strings.Cut(option, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(keyword) {
		case "namespaces":
			k.namespaces = strings.Split(value, ",")
		case "valid-after":
			k.after, err = parseTime(value)
		case "valid-before":
			k.before, err = parseTime(value)
		default:
			err = fmt.Errorf("option %q is not known here; write namespaces, valid-after or valid-before", keyword)
		}
		if err != nil {
			return allowedKey{}, err
		}
	}
	return k, strong(name, public)
}

// strong refuses keys whose signatures could be forged.
func strong(name string, public ssh.PublicKey) error {
	switch public.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		crypto, ok := public.(ssh.CryptoPublicKey)
		if !ok {
			break
		}
		if key, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && key.N.BitLen() >= minRSABits {
			return nil
		}
		return fmt.Errorf("the RSA key of %s has less than %d bits; make another: ssh-keygen -t ed25519", name, minRSABits)
	}
	return fmt.Errorf("the key of %s is of type %s, which is not taken; make another: ssh-keygen -t ed25519", name, public.Type())
}

// parseTime reads YYYYMMDD[HHMM[SS]][Z], as ssh-keygen does: local time without the Z.
func parseTime(text string) (time.Time, error) {
	zone, digits := time.Local, text
	if utc, ok := strings.CutSuffix(text, "Z"); ok {
		zone, digits = time.UTC, utc
	}
	for _, form := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(form) == len(digits) {
			return time.ParseInLocation(form, digits, zone)
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z for UTC", text)
}

// Names lists who may sign, each once.
func (s Signers) Names() []string {
	var names []string
	seen := map[string]bool{}
	for _, k := range s {
		if !seen[k.name] {
			seen[k.name] = true
			names = append(names, k.name)
		}
	}
	return names
}

// Able lists who may sign for a purpose at a time: each key once, by the name that counts for it.
func (s Signers) Able(p Purpose, at time.Time) []Signer {
	var able []Signer
	for _, k := range s {
		by, err := s.find(k.key, p, at)
		if err == nil && !slices.ContainsFunc(able, func(other Signer) bool { return other.Key == by.Key }) {
			able = append(able, by)
		}
	}
	return able
}

// Ends calls each for every line with a valid-before: whose key it is of, and until when it may sign.
func (s Signers) Ends(each func(by Signer, until time.Time)) {
	for _, k := range s {
		if !k.before.IsZero() {
			each(k.Signer(), k.before)
		}
	}
}

// Signer is whose key it is.
func (k allowedKey) Signer() Signer { return Signer{Name: k.name, Key: ssh.FingerprintSHA256(k.key)} }

// find returns whose key it is. A key with several lines is allowed when one of them allows it.
func (s Signers) find(public ssh.PublicKey, p Purpose, at time.Time) (Signer, error) {
	fingerprint := ssh.FingerprintSHA256(public)
	why := fmt.Errorf("%w: key %s is not among the allowed signers", ErrUntrusted, fingerprint)
	for _, k := range s {
		if !bytes.Equal(k.key.Marshal(), public.Marshal()) {
			continue
		}
		switch {
		case !k.serves(p):
			why = fmt.Errorf("%w: key %s of %s may not sign for %s", ErrUntrusted, fingerprint, k.name, p)
		case !k.after.IsZero() && at.Before(k.after):
			why = fmt.Errorf("%w: key %s of %s is valid from %s on", ErrUntrusted, fingerprint, k.name, k.after.UTC().Format(time.RFC3339))
		case !k.before.IsZero() && !at.Before(k.before):
			why = fmt.Errorf("%w: key %s of %s was valid until %s", ErrUntrusted, fingerprint, k.name, k.before.UTC().Format(time.RFC3339))
		default:
			return Signer{Name: k.name, Key: fingerprint}, nil
		}
	}
	return Signer{}, why
}

// serves tells whether the key may sign for a purpose: any, unless its line names some.
func (k allowedKey) serves(p Purpose) bool {
	if len(k.namespaces) == 0 {
		return true
	}
	for _, pattern := range k.namespaces {
		if ok, err := path.Match(pattern, string(p)); err == nil && ok {
			return true
		}
	}
	return false
}
