package awssecretsmanager

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keyturn/keyturn/internal/key"
)

// Before there was a companion, metadata was compressed JSON in base64, cut into the secret's tags keyturn:0, keyturn:1
// and so on, the first of which begins with how many there are and a checksum. They are read until there is a companion,
// and written no more.
const (
	tagPrefix  = "keyturn:"
	tagVersion = "1"
	maxTags    = 40
	sumLength  = 16 // of hex digits
	// maxRecord bounds what is decompressed.
	maxRecord = 1 << 20
)

// tagged is the metadata in the tags; the zero one when there is none. It has no revision: what replaces it is the first.
func (s *store) tagged(ctx context.Context, c *secretsmanager.Client) (key.Metadata, error) {
	described, err := s.describe(ctx, c)
	if err != nil || described == nil {
		return key.Metadata{}, err
	}
	m, err := decodeTags(described.Tags)
	if err != nil {
		return key.Metadata{}, fmt.Errorf("reading metadata in the tags of secret %q: %w", s.name, err)
	}
	return m, nil
}

// decodeTags reads the metadata that is in a secret's tags, whatever other tags there are. Without a tag of keyturn's it is
// the zero Metadata; ErrDamaged tells of tags that keyturn did not write so.
func decodeTags(tags []types.Tag) (key.Metadata, error) {
	own := map[string]string{}
	for _, t := range tags {
		if name, ok := strings.CutPrefix(aws.ToString(t.Key), tagPrefix); ok {
			own[name] = aws.ToString(t.Value)
		}
	}
	if len(own) == 0 {
		return key.Metadata{}, nil
	}
	parts := strings.SplitN(own["0"], ":", 4)
	if len(parts) < 4 || parts[0] != tagVersion {
		return key.Metadata{}, fmt.Errorf("%w: %s0 has no header of this version", ErrDamaged, tagPrefix)
	}
	count, err := strconv.Atoi(parts[1])
	if err != nil || count < 1 || count > maxTags {
		return key.Metadata{}, fmt.Errorf("%w: %s0 has no count", ErrDamaged, tagPrefix)
	}
	text := parts[3]
	for i := 1; i < count; i++ {
		text += own[strconv.Itoa(i)]
	}
	if checksum(text) != parts[2] {
		return key.Metadata{}, fmt.Errorf("%w: the checksum does not hold", ErrDamaged)
	}
	packed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return key.Metadata{}, fmt.Errorf("%w: no base64", ErrDamaged)
	}
	plain, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxRecord))
	if err != nil {
		return key.Metadata{}, fmt.Errorf("%w: not compressed", ErrDamaged)
	}
	return Decode(string(plain))
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:sumLength]
}
