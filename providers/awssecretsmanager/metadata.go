package awssecretsmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// Metadata is JSON, the value of a companion secret: labels are the only thing that Secrets Manager compares and swaps, and a
// secret has but 20 of them. The companion's AWSCURRENT is the record, and the ID of the version that bears it the
// revision. A version is put under AWSPENDING, and then AWSCURRENT is moved to it from the one that was read.
//
// What a version holds never changes, so that looking costs a description, which is neither logged nor billed as reading a
// value is.
const companion = ".keyturn"

// ErrDamaged is wrapped when the record is not what keyturn writes: somebody changed it. Nothing is overwritten then.
var ErrDamaged = fmt.Errorf("%w: keyturn's record is damaged", providers.ErrInvalid)

// companion is the secret with the record.
func (s *store) companion() *store { return &store{account: s.account, name: s.name + companion} }

// records remembers the contents of the last revision that was seen of each record, by the name of its secret.
type records struct {
	mu   sync.Mutex
	seen map[string]contents
}

type contents struct {
	revision key.Revision
	text     string
}

func (r *records) of(name string, revision key.Revision) (text string, known bool) {
	if r == nil {
		return "", false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.seen[name]
	return c.text, c.revision == revision
}

func (r *records) keep(name string, c contents) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[string]contents{}
	}
	r.seen[name] = c
}

// Decode reads the metadata that is the companion's value.
func Decode(text string) (key.Metadata, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields() // what a later keyturn wrote must not be lost by this one
	var m key.Metadata
	err := decoder.Decode(&m)
	if err == nil {
		_, err = decoder.Token()
	}
	if !errors.Is(err, io.EOF) {
		return key.Metadata{}, fmt.Errorf("%w: not a record of this version", ErrDamaged)
	}
	return m, nil
}

// Metadata implements providers.Store.
func (s *store) Metadata(ctx context.Context) (key.Metadata, error) {
	c, err := s.client(ctx)
	if err != nil {
		return key.Metadata{}, err
	}
	revision, err := s.revision(ctx, c)
	if err != nil {
		return key.Metadata{}, err
	}
	if revision == "" {
		return s.tagged(ctx, c)
	}
	text, err := s.contents(ctx, c, revision)
	if err != nil {
		return key.Metadata{}, err
	}
	m, err := Decode(text)
	if err != nil {
		return key.Metadata{}, fmt.Errorf("reading metadata of secret %q: %w", s.name, err)
	}
	m.Revision = revision
	return m, nil
}

// revision is that of the record; empty when there is none yet.
func (s *store) revision(ctx context.Context, c *secretsmanager.Client) (key.Revision, error) {
	described, err := s.companion().describe(ctx, c)
	if err != nil || described == nil {
		return "", err
	}
	for version, stages := range described.VersionIdsToStages {
		switch {
		case !slices.Contains(stages, awsCurrent) || same(version, placeholder):
		case !versionForm.MatchString(version):
			return "", fmt.Errorf("looking at the record of secret %q: %w", s.name, errNoAnswer)
		default:
			return key.Revision(version), nil
		}
	}
	return "", nil
}

// contents is the record of a revision.
func (s *store) contents(ctx context.Context, c *secretsmanager.Client, revision key.Revision) (string, error) {
	if text, known := s.records.of(s.name, revision); known {
		return text, nil
	}
	record := s.companion()
	out, err := c.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &record.name, VersionId: aws.String(string(revision))})
	if err != nil {
		return "", record.failed("reading metadata", err)
	}
	if !same(aws.ToString(out.VersionId), string(revision)) {
		return "", fmt.Errorf("reading metadata of secret %q: %w", s.name, errNoAnswer)
	}
	text := aws.ToString(out.SecretString)
	s.records.keep(s.name, contents{revision, text})
	return text, nil
}

// PutMetadata implements providers.Store.
func (s *store) PutMetadata(ctx context.Context, m key.Metadata) (key.Revision, error) {
	next, err := s.putMetadata(ctx, m)
	if err != nil {
		return "", fmt.Errorf("writing metadata of secret %q: %w", s.name, err)
	}
	return next, nil
}

func (s *store) putMetadata(ctx context.Context, m key.Metadata) (key.Revision, error) {
	c, err := s.client(ctx)
	if err != nil {
		return "", err
	}
	next, err := m.Next()
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(m)
	if err != nil || len(content) > maxContent {
		return "", fmt.Errorf("%w: it is of %d bytes, and a secret takes %d: rotations leave debt that nobody settles", providers.ErrInvalid, len(content), maxContent)
	}
	switch revision, err := s.revision(ctx, c); {
	case err != nil:
		return "", err
	case same(string(revision), string(next)): // the reply of this write got lost
		return revision, nil
	case !same(string(revision), string(m.Revision)):
		return "", providers.Stale(m)
	}
	record, from := s.companion(), string(m.Revision)
	if m.Revision == "" {
		if _, err := s.tagged(ctx, c); err != nil {
			return "", err
		}
		if _, err := record.begin(ctx, c); err != nil {
			return "", err
		}
		from = placeholder
	}
	written, err := record.put(ctx, c, string(next), content)
	if err != nil {
		return "", err
	}
	if err := record.move(ctx, c, awsCurrent, from, written); err != nil {
		return "", err
	}
	s.records.keep(s.name, contents{key.Revision(written), string(content)})
	return key.Revision(written), nil
}
