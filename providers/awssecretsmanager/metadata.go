package awssecretsmanager

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keyturn/keyturn/providers"
)

// Metadata is compressed JSON in base64, cut into tags keyturn:0, keyturn:1 and so on: a tag holds 256
// characters, a secret 50 tags, of which the others are somebody else's. The first one begins with how many
// there are and a checksum, so that what a write cut short left is never taken for the truth.
const (
	tagPrefix  = "keyturn:"
	tagVersion = "1"
	maxTag     = 256
	maxTags    = 40
	sumLength  = 16 // of hex digits
	// maxRecord bounds what is decompressed.
	maxRecord = 1 << 20
)

// ErrDamaged is wrapped when the tags are not what keyturn wrote: somebody changed them, or wrote at the
// same time. Nothing is overwritten then.
var ErrDamaged = fmt.Errorf("%w: keyturn's tags are damaged", providers.ErrInvalid)

// encode writes metadata as tags.
func encode(m providers.Metadata) ([]types.Tag, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	text := base64.StdEncoding.EncodeToString(packed.Bytes())
	// The header's length does not depend on the count, which depends on it.
	count := (len(header(0, text)) + len(text) + maxTag - 1) / maxTag
	if count > maxTags {
		return nil, fmt.Errorf("%w: it needs %d tags, and %d are keyturn's: rotations leave debt that nobody settles", providers.ErrInvalid, count, maxTags)
	}
	text = header(count, text) + text
	var tags []types.Tag
	for i := 0; i*maxTag < len(text); i++ {
		tags = append(tags, types.Tag{
			Key: aws.String(tagPrefix + strconv.Itoa(i)), Value: aws.String(text[i*maxTag : min((i+1)*maxTag, len(text))]),
		})
	}
	return tags, nil
}

func header(count int, text string) string {
	return fmt.Sprintf("%s:%02d:%s:", tagVersion, count, checksum(text))
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:sumLength]
}

// Decode reads the metadata that is in a secret's tags, whatever other tags there are. Without a tag of keyturn's it is
// the zero Metadata; ErrDamaged tells of tags that keyturn did not write so.
func Decode(tags []types.Tag) (providers.Metadata, error) {
	own := map[string]string{}
	for _, t := range tags {
		if name, ok := strings.CutPrefix(aws.ToString(t.Key), tagPrefix); ok {
			own[name] = aws.ToString(t.Value)
		}
	}
	if len(own) == 0 {
		return providers.Metadata{}, nil
	}
	parts := strings.SplitN(own["0"], ":", 4)
	if len(parts) < 4 || parts[0] != tagVersion {
		return providers.Metadata{}, fmt.Errorf("%w: %s0 has no header of this version", ErrDamaged, tagPrefix)
	}
	count, err := strconv.Atoi(parts[1])
	if err != nil || count < 1 || count > maxTags {
		return providers.Metadata{}, fmt.Errorf("%w: %s0 has no count", ErrDamaged, tagPrefix)
	}
	text := parts[3]
	for i := 1; i < count; i++ {
		text += own[strconv.Itoa(i)]
	}
	if checksum(text) != parts[2] {
		return providers.Metadata{}, fmt.Errorf("%w: the checksum does not hold", ErrDamaged)
	}
	packed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return providers.Metadata{}, fmt.Errorf("%w: no base64", ErrDamaged)
	}
	decoder := json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxRecord))
	decoder.DisallowUnknownFields() // what a later keyturn wrote must not be lost by this one
	var m providers.Metadata
	if err := decoder.Decode(&m); err != nil {
		return providers.Metadata{}, fmt.Errorf("%w: not a record of this version", ErrDamaged)
	}
	return m, nil
}

// Metadata implements providers.Store.
func (s *store) Metadata(ctx context.Context) (providers.Metadata, error) {
	c, err := s.client(ctx)
	if err != nil {
		return providers.Metadata{}, err
	}
	described, err := s.describe(ctx, c)
	if err != nil || described == nil {
		return providers.Metadata{}, err
	}
	m, err := Decode(described.Tags)
	if err != nil {
		return providers.Metadata{}, fmt.Errorf("reading metadata of secret %q: %w", s.name, err)
	}
	return m, nil
}

// PutMetadata implements providers.Store. One call writes all tags; those of a longer record before are
// removed afterwards, and do not count meanwhile.
func (s *store) PutMetadata(ctx context.Context, m providers.Metadata) error {
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	tags, err := encode(m)
	if err != nil {
		return fmt.Errorf("writing metadata of secret %q: %w", s.name, err)
	}
	described, err := s.describe(ctx, c)
	if err != nil {
		return err
	}
	if described == nil {
		return s.create(ctx, c, tags)
	}
	if _, err := Decode(described.Tags); err != nil {
		return fmt.Errorf("writing metadata of secret %q: %w", s.name, err)
	}
	if _, err := c.TagResource(ctx, &secretsmanager.TagResourceInput{SecretId: &s.name, Tags: tags}); err != nil {
		return s.failed("writing metadata", err)
	}
	stale := staleTags(described.Tags, len(tags))
	if len(stale) == 0 {
		return nil
	}
	_, err = c.UntagResource(ctx, &secretsmanager.UntagResourceInput{SecretId: &s.name, TagKeys: stale})
	return s.failed("removing old metadata", err)
}

// staleTags are the keys of those of ours beyond the first count.
func staleTags(tags []types.Tag, count int) []string {
	var keys []string
	for _, t := range tags {
		if name, ok := strings.CutPrefix(aws.ToString(t.Key), tagPrefix); ok {
			if i, err := strconv.Atoi(name); err == nil && i >= count {
				keys = append(keys, *t.Key)
			}
		}
	}
	return keys
}
