package gatewayfile

import (
	"crypto/rand"
	"hash/crc32"
	"regexp"
	"strings"
)

// TokenPattern finds a key that keyturn mints in any text. ParseToken tells a real one from a look-alike.
const TokenPattern = `ktg_[A-Z2-7]{16}_[A-Z2-7]{52}[0-9A-Za-z]{6}` //nolint:gosec // the form of a key, not one

const (
	tokenPrefix    = "ktg_"
	keyIDLength    = 16 // 80 bits: never given twice
	secretLength   = 52 // 260 bits
	checksumLength = 6
	base62         = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

var tokenForm = regexp.MustCompile(`^` + TokenPattern + `$`)

// ParseToken tells whether a value has the form and the checksum of a key that Mint makes, and the key ID in it.
//
// A key is ktg_<key ID>_<secret><checksum>: 16 and 52 characters of base 32, and the CRC-32 (IEEE) of all
// before it in six characters of base 62.
func ParseToken(value string) (keyID string, ok bool) {
	if !tokenForm.MatchString(value) {
		return "", false
	}
	body := len(value) - checksumLength
	if checksum(value[:body]) != value[body:] {
		return "", false
	}
	return value[len(tokenPrefix):][:keyIDLength], true
}

// Mint makes a new key out of crypto/rand.
func Mint() (keyID, value string) {
	keyID = rand.Text()[:keyIDLength]
	body := tokenPrefix + keyID + "_" + (rand.Text() + rand.Text())[:secretLength]
	return keyID, body + checksum(body)
}

// SecretPart is what may not be told of a key: what follows its ID, or all of one in another form.
func SecretPart(value string) string {
	if id, ours := ParseToken(value); ours {
		return strings.TrimPrefix(value, tokenPrefix+id+"_")
	}
	return value
}

func checksum(body string) string {
	digits := []byte(strings.Repeat("0", checksumLength))
	rest := crc32.ChecksumIEEE([]byte(body))
	for i := checksumLength - 1; rest > 0; i-- {
		digits[i] = base62[rest%62]
		rest /= 62
	}
	return string(digits)
}
