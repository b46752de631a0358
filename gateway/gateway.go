package gateway

import (
	"context"

	"github.com/keyturn/keyturn/internal/gatewayfile"
)

// What a key file or usage file is that nobody may rely on. While the key file is, every key is refused.
var (
	// ErrMalformed: it is not what docs/gateway.md says.
	ErrMalformed = gatewayfile.ErrMalformed
	// ErrOthersMayWrite: others than its owner may write it.
	ErrOthersMayWrite = gatewayfile.ErrOthersMayWrite
)

// Create makes an empty key file where there is none yet. One that exists is left as it is. The gateway's
// operator calls it once; keyturn never does, since a wrong path must not look like a gateway without
// keys.
func Create(ctx context.Context, keyFile string) error { return gatewayfile.Create(ctx, keyFile) }

// TokenPattern finds a key that keyturn minted in any text, for secret scanners. ParseToken tells a real
// one from a look-alike.
const TokenPattern = gatewayfile.TokenPattern

// ParseToken tells whether a value has the form and the checksum of a key that keyturn mints, and
// the key ID in it. It does not tell whether the key is live.
//
// A key is ktg_<key ID>_<secret><checksum>: 16 and 52 characters of base 32, and the CRC-32 (IEEE) of all
// before it in six characters of base 62, so that a scanner needs no call to be sure of what it found.
func ParseToken(value string) (keyID string, ok bool) { return gatewayfile.ParseToken(value) }
