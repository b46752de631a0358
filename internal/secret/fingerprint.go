package secret

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"regexp"
	"strings"
)

// fingerprintDomain keeps a fingerprint from being the plain hash of the secret, which another
// system may publish. A consumer in any language computes the same with
//
//	printf 'keyturn/fingerprint/v1\0value\0%s\0' "$KEY" | sha256sum | cut -c1-32
const fingerprintDomain = "keyturn/fingerprint/v1\x00"

// minFingerprintBits is the strength below which a fingerprint could be guessed back to its secret.
const minFingerprintBits = 128

// Fingerprint names the bundle without telling it: "fp:" and 128 bits of SHA-256 in hex. It is empty
// for a secret of less than 128 bits, whose key ID is used instead.
func (b Bundle) Fingerprint() string {
	bits := 0.0
	h := sha256.New()
	h.Write([]byte(fingerprintDomain))
	for _, name := range b.Names() {
		v, _ := b.Field(name)
		value := v.Reveal()
		bits = max(bits, strengthBound(value))
		h.Write([]byte(name + "\x00"))
		h.Write(value)
		h.Write([]byte{0})
		clear(value)
	}
	if bits < minFingerprintBits {
		return ""
	}
	return "fp:" + hex.EncodeToString(h.Sum(nil)[:16])
}

var fingerprintForm = regexp.MustCompile(`^fp:[0-9a-f]{32}$`)

// IsFingerprint tells whether a text has the form of a fingerprint.
func IsFingerprint(s string) bool { return fingerprintForm.MatchString(s) }

// strengthBound is an upper bound, in bits, of what the value could hold: its length times the
// alphabet it draws from. A value of few distinct bytes is a pass phrase, not a key.
func strengthBound(value []byte) float64 {
	distinct := map[byte]bool{}
	for _, c := range value {
		distinct[c] = true
	}
	if len(distinct) < 8 {
		return 0
	}
	alphabet := 256.0
	for _, a := range []struct {
		chars string
		size  float64
	}{
		{"0123456789", 10},
		{"0123456789abcdef-", 16},
		{"0123456789ABCDEF-", 16},
		{"abcdefghijklmnopqrstuvwxyz0123456789-_", 36},
		{"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", 36},
		{"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/-_=", 64},
	} {
		if strings.Trim(string(value), a.chars) == "" {
			alphabet = a.size
			break
		}
	}
	return float64(len(value)) * math.Log2(alphabet)
}
