package consumer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Attestation is what Handler answers: keyturn reads key by the JSON pointer /key.
type Attestation struct {
	// Key is the fingerprint, or with Options.KeyID the issuer's key ID. It is never the key.
	Key      string    `json:"key"`
	LoadedAt time.Time `json:"loadedAt"`
}

// Handler answers GET with the Attestation of the key in use, and 503 when the key has neither
// fingerprint nor key ID. It tells nothing secret; serve it where keyturn's worker can reach it.
func (f *File) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "ask with GET", http.StatusMethodNotAllowed)
			return
		}
		now := f.now.Load()
		a := Attestation{Key: now.fingerprint, LoadedAt: now.at}
		if now.keyID != "" {
			a.Key = now.keyID
		}
		w.Header().Set("Cache-Control", "no-store")
		if a.Key == "" {
			http.Error(w, "the key is too weak to have a fingerprint: set consumer.Options.KeyID", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the client is gone
	})
}

// Fingerprint names the key in use without telling it: "fp:" and 128 bits of SHA-256 in hex. It is
// empty for a key of less than 128 bits, which could be guessed from it. For a key of one field, other
// languages get the same with
//
//	printf 'keyturn/fingerprint/v1\0value\0%s\0' "$KEY" | sha256sum | cut -c1-32
func (f *File) Fingerprint() string { return f.now.Load().fingerprint }

// fingerprint is Bundle.Fingerprint of keyturn's internal/secret once more. It is repeated here because
// whoever imports this package must not get keyturn with it; a test holds the two together.
func fingerprint(fields map[string]string) string {
	bits := 0.0
	h := sha256.New()
	h.Write([]byte("keyturn/fingerprint/v1\x00"))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		bits = max(bits, strengthBound(fields[name]))
		h.Write([]byte(name + "\x00" + fields[name] + "\x00"))
	}
	if bits < 128 {
		return ""
	}
	return "fp:" + hex.EncodeToString(h.Sum(nil)[:16])
}

// strengthBound is an upper bound, in bits, of what the value could hold: its length times the
// alphabet it draws from. A value of few distinct bytes is a pass phrase, not a key.
func strengthBound(value string) float64 {
	distinct := map[byte]bool{}
	for i := range len(value) {
		distinct[value[i]] = true
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
		if strings.Trim(value, a.chars) == "" {
			alphabet = a.size
			break
		}
	}
	return float64(len(value)) * math.Log2(alphabet)
}
