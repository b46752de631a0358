package policy

import (
	"strconv"

	"github.com/google/uuid"
)

// tokenSpace is the UUIDv5 name space of issue tokens.
var tokenSpace = uuid.MustParse("6f2e0f0a-6a0b-5c57-9d4e-1d0c5a0f5f11")

// Token is the idempotency token of one mint: UUIDv5 of the rotation ID and the ordinal of the mint
// within the rotation. It is the same in every attempt, run and reset.
func Token(rotation string, ordinal int) string {
	return uuid.NewSHA1(tokenSpace, []byte(rotation+"/"+strconv.Itoa(ordinal))).String()
}
