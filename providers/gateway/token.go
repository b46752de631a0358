package gateway

import (
	"crypto/rand"
	"hash/crc32"
	"regexp"
	"strings"
)

const (
	// TokenPattern finds a key of this package in any text, for secret scanners. ParseToken tells a real
	// one from a look-alike.
	TokenPattern = `ktg_[A-Z2-7]{16}_[A-Z2-7]{52}[0-9A-Za-z]{6}` //nolint:gosec // the form of a key, not one

	tokenPrefix    = "ktg_"
	keyIDLength    = 16 // 80 bits: never given twice
	secretLength   = 52 // 260 bits
	checksumLength = 6
	base62         = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

var tokenForm = regexp.MustCompile(`^` + TokenPattern + `$`)

// ParseToken tells whether a value has the form and the checksum of a key that this package mints, and
// the key ID in it. It does not tell whether the key is live.
//
// A key is ktg_<key ID>_<secret><checksum>: 16 and 52 characters of base 32, and the CRC-32 (IEEE) of all
// before it in six characters of base 62, so that a scanner needs no call to be sure of what it found.
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

// mintToken makes a new key out of crypto/rand.
func mintToken() (keyID, value string) {
	keyID = rand.Text()[:keyIDLength]
	body := tokenPrefix + keyID + "_" + (rand.Text() + rand.Text())[:secretLength]
	return keyID, body + checksum(body)
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
