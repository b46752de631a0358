package awssecretsmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// The staging labels that stand for keyturn's.
const (
	awsCurrent  = "AWSCURRENT"
	awsPending  = "AWSPENDING"
	awsPrevious = "AWSPREVIOUS"
)

var stages = map[key.Label]string{"": awsCurrent, key.Current: awsCurrent, key.Pending: awsPending, key.Previous: awsPrevious}

const (
	// placeholder is the token of an empty first version. Secrets Manager gives the first version of a secret
	// AWSCURRENT, whatever it is asked; this one takes it, so that no key is read before it is promoted. It is
	// never listed.
	placeholder  = "keyturn-placeholder-of-an-empty-secret"
	emptyContent = "{}"

	// maxContent is the quota of a secret's value (User Guide, "quotas").
	maxContent = 64 << 10
	// minToken is the least length of a ClientRequestToken, and so of a version's ID.
	minToken = 32
)

// errNoAnswer: a reply lacks what each has that comes from Secrets Manager. Nothing is read out of it.
var errNoAnswer = errors.New("the answer is not one of Secrets Manager")

// versionForm is a version's ID: what CreateSecret and PutSecretValue take as ClientRequestToken (API
// reference), kept to what fits into a message.
var versionForm = regexp.MustCompile(`^[A-Za-z0-9_.:/=+@-]{32,64}$`)

// store keeps one secret. A version without labels is as good as gone: Secrets Manager removes such
// versions when it likes.
type store struct {
	account *awsaccount.Account
	name    string
	// records remembers what was read of the account's metadata; nothing does when nil.
	records *records
}

var _ providers.Store = (*store)(nil)

func (s *store) client(ctx context.Context) (*secretsmanager.Client, error) {
	c, err := s.account.Config(ctx)
	if err != nil {
		return nil, err
	}
	return secretsmanager.NewFromConfig(c), nil
}

func (s *store) failed(doing string, err error) error {
	return awsaccount.Error(fmt.Sprintf("%s of secret %q", doing, s.name), err)
}

// state is a secret as it is described, with its labelled versions, the first one first.
type state struct {
	secret   *secretsmanager.DescribeSecretOutput
	versions []types.SecretVersionsListEntry
}

// look reads all but values. A secret that does not exist has no description. ErrDenied for one that
// something else manages, or that is about to be deleted.
func (s *store) look(ctx context.Context, c *secretsmanager.Client) (state, error) {
	described, err := s.describe(ctx, c)
	if err != nil || described == nil {
		return state{}, err
	}
	st := state{secret: described}
	pages := secretsmanager.NewListSecretVersionIdsPaginator(c, &secretsmanager.ListSecretVersionIdsInput{SecretId: &s.name})
	err = awsaccount.Pages(ctx, pages, func(page *secretsmanager.ListSecretVersionIdsOutput) error {
		if aws.ToString(page.ARN) == "" {
			return errNoAnswer
		}
		for _, v := range page.Versions {
			if len(v.VersionStages) == 0 {
				continue
			}
			if !versionForm.MatchString(aws.ToString(v.VersionId)) {
				return errors.New("the answer has a version without a proper ID")
			}
			st.versions = append(st.versions, v)
		}
		return nil
	})
	if err != nil {
		return state{}, s.failed("listing versions", err)
	}
	slices.SortStableFunc(st.versions, func(a, b types.SecretVersionsListEntry) int {
		return aws.ToTime(a.CreatedDate).Compare(aws.ToTime(b.CreatedDate))
	})
	return st, nil
}

func (s *store) describe(ctx context.Context, c *secretsmanager.Client) (*secretsmanager.DescribeSecretOutput, error) {
	described, err := c.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &s.name})
	if err := s.failed("describing versions", err); err != nil {
		if errors.Is(err, providers.ErrNotFound) {
			return nil, nil //nolint:nilnil // no secret, and no trouble
		}
		return nil, err
	}
	why := ""
	switch {
	case aws.ToString(described.ARN) == "":
		return nil, fmt.Errorf("describing versions of secret %q: %w", s.name, errNoAnswer)
	case described.DeletedDate != nil:
		why = "it is scheduled for deletion: restore it, with aws secretsmanager restore-secret"
	case aws.ToBool(described.RotationEnabled):
		why = "native rotation is on, and two that rotate one secret break it: turn it off, with aws secretsmanager cancel-rotate-secret"
	case aws.ToString(described.OwningService) != "":
		why = fmt.Sprintf("the service %s manages it", awsaccount.Name(described.OwningService))
	}
	if why != "" {
		return nil, fmt.Errorf("looking at secret %q: %w: %s", s.name, providers.ErrDenied, why)
	}
	return described, nil
}

// bearer is the ID of the version with a staging label; empty when there is none.
func (st state) bearer(stage string) string {
	for _, v := range st.versions {
		if slices.Contains(v.VersionStages, stage) {
			return aws.ToString(v.VersionId)
		}
	}
	return ""
}

// same tells whether two names are those of one version. Secrets Manager compares tokens, and so the IDs of versions, without
// regard to case: what it answers may be spelled in another way than what was sent. Everything keeps its spelling.
func same(a, b string) bool { return strings.EqualFold(a, b) }

func (st state) find(version string) (types.SecretVersionsListEntry, bool) {
	i := slices.IndexFunc(st.versions, func(v types.SecretVersionsListEntry) bool { return same(aws.ToString(v.VersionId), version) })
	if i < 0 || same(version, placeholder) {
		return types.SecretVersionsListEntry{}, false
	}
	return st.versions[i], true
}

// Versions implements providers.Store.
func (s *store) Versions(ctx context.Context) ([]key.Version, error) {
	c, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.look(ctx, c)
	if err != nil {
		return nil, err
	}
	var list []key.Version
	for _, v := range st.versions {
		id := aws.ToString(v.VersionId)
		if same(id, placeholder) {
			continue
		}
		known := key.Version{ID: id, Token: id, CreatedAt: aws.ToTime(v.CreatedDate)}
		for _, l := range []key.Label{key.Current, key.Pending, key.Previous} {
			if slices.Contains(v.VersionStages, stages[l]) {
				known.Labels = append(known.Labels, l)
			}
		}
		list = append(list, known)
	}
	return list, nil
}

// Read implements providers.Store.
func (s *store) Read(ctx context.Context, version string) (secret.Bundle, error) {
	doing := "reading version " + version
	if len(version) < minToken {
		return secret.Bundle{}, fmt.Errorf("%s of secret %q: %w", doing, s.name, providers.ErrNotFound)
	}
	return s.read(ctx, doing, &secretsmanager.GetSecretValueInput{SecretId: &s.name, VersionId: &version})
}

// ReadLabel implements providers.Store. A default read yields AWSCURRENT.
func (s *store) ReadLabel(ctx context.Context, l key.Label) (secret.Bundle, error) {
	stage := stages[l]
	return s.read(ctx, "reading "+stage, &secretsmanager.GetSecretValueInput{SecretId: &s.name, VersionStage: &stage})
}

func (s *store) read(ctx context.Context, doing string, in *secretsmanager.GetSecretValueInput) (secret.Bundle, error) {
	c, err := s.client(ctx)
	if err != nil {
		return secret.Bundle{}, err
	}
	out, err := c.GetSecretValue(ctx, in)
	if err != nil {
		return secret.Bundle{}, s.failed(doing, err)
	}
	if len(out.VersionStages) == 0 || same(aws.ToString(out.VersionId), placeholder) {
		return secret.Bundle{}, fmt.Errorf("%s of secret %q: %w", doing, s.name, providers.ErrNotFound)
	}
	members, err := parse(out)
	if err != nil {
		return secret.Bundle{}, fmt.Errorf("%s of secret %q: %w", doing, s.name, err)
	}
	return members.bundle(), nil
}

// members are the secret's JSON: strings, and whatever else consumers keep there, which stays as it is.
type members map[string]json.RawMessage

func parse(out *secretsmanager.GetSecretValueOutput) (members, error) {
	var m members
	if err := json.Unmarshal([]byte(aws.ToString(out.SecretString)), &m); err != nil || m == nil {
		// The decoder's message may quote the secret, so it is dropped.
		return nil, fmt.Errorf("%w: the value is no JSON object, and keyturn keeps a key's fields as members of one", providers.ErrInvalid)
	}
	return m, nil
}

// encode writes them as the secret's value.
func (m members) encode() ([]byte, error) {
	content, err := json.Marshal(m)
	if err != nil || len(content) > maxContent {
		return nil, fmt.Errorf("%w: its value would be of %d bytes, and Secrets Manager takes %d", providers.ErrInvalid, len(content), maxContent)
	}
	return content, nil
}

// bundle has strings as they are, and the JSON of everything else.
func (m members) bundle() secret.Bundle {
	fields := map[string]secret.Value{}
	for name, raw := range m {
		var text string
		if json.Unmarshal(raw, &text) == nil && !bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
			fields[name] = secret.New([]byte(text))
		} else {
			fields[name] = secret.New(raw)
		}
	}
	return secret.NewBundle(fields)
}

// Stage implements providers.Store. The token is the version's ID, as Secrets Manager spells it.
func (s *store) Stage(ctx context.Context, token string, b secret.Bundle) (string, error) {
	if len(token) < minToken || same(token, placeholder) || len(b.Names()) == 0 {
		return "", fmt.Errorf("staging of secret %q: %w: bundle or token is too short", s.name, providers.ErrInvalid)
	}
	c, err := s.client(ctx)
	if err != nil {
		return "", err
	}
	st, err := s.begin(ctx, c)
	if err != nil {
		return "", err
	}
	staged, err := c.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.name, VersionId: &token})
	err = s.failed("looking for the staged version", err)
	switch {
	case err == nil && !same(aws.ToString(staged.VersionId), token):
		return "", fmt.Errorf("staging of secret %q: %w", s.name, errNoAnswer)
	case err == nil:
		return aws.ToString(staged.VersionId), s.stageAgain(ctx, c, st, staged, b)
	case !errors.Is(err, providers.ErrNotFound):
		return "", err
	}
	content, err := s.content(ctx, c, st, b)
	if err != nil {
		return "", err
	}
	encoded, err := content.encode()
	if err != nil {
		return "", fmt.Errorf("staging of secret %q: %w", s.name, err)
	}
	return s.put(ctx, c, token, encoded)
}

// put adds a version that is pending, and returns its ID.
func (s *store) put(ctx context.Context, c *secretsmanager.Client, token string, content []byte) (string, error) {
	put, err := c.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &s.name, ClientRequestToken: &token, SecretString: aws.String(string(content)),
		VersionStages: []string{awsPending}, // without, AWSCURRENT would move at once
	})
	if awsaccount.Code(err) == "LimitExceededException" {
		return "", fmt.Errorf("%w: the secret has as many versions as AWS keeps; those without a label go when they are a day old, and it is tried until then", s.failed("staging", err))
	}
	if err != nil {
		return "", s.failed("staging", err)
	}
	id := aws.ToString(put.VersionId)
	if !same(id, token) {
		return "", fmt.Errorf("staging of secret %q: %w", s.name, errNoAnswer)
	}
	return id, nil
}

// stageAgain sees that a version of the token holds the same key, and has a label.
func (s *store) stageAgain(ctx context.Context, c *secretsmanager.Client, st state, staged *secretsmanager.GetSecretValueOutput, b secret.Bundle) error {
	m, err := parse(staged)
	if err != nil {
		return fmt.Errorf("reading the staged version of secret %q: %w", s.name, err)
	}
	before := m.bundle()
	defer before.Close()
	switch own := before.Only(b.Names()...); {
	case !own.Equal(b):
		return fmt.Errorf("staging of secret %q: %w: the token was used for another bundle", s.name, providers.ErrConflict)
	case len(staged.VersionStages) > 0:
		return nil
	}
	return s.move(ctx, c, awsPending, st.bearer(awsPending), aws.ToString(staged.VersionId))
}

// begin sees that the secret exists and that some version bears AWSCURRENT.
func (s *store) begin(ctx context.Context, c *secretsmanager.Client) (state, error) {
	st, err := s.look(ctx, c)
	switch {
	case err != nil:
		return st, err
	case st.secret == nil:
		if err := s.create(ctx, c); err != nil {
			return st, err
		}
	case st.bearer(awsCurrent) == "":
		_, err := c.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
			SecretId: &s.name, ClientRequestToken: aws.String(placeholder), SecretString: aws.String(emptyContent),
			VersionStages: []string{awsCurrent},
		})
		if err != nil {
			return st, s.failed("preparing", err)
		}
	}
	return st, nil
}

// create makes the secret with the placeholder alone. That somebody else did is no error.
func (s *store) create(ctx context.Context, c *secretsmanager.Client) error {
	created, err := c.CreateSecret(ctx, &secretsmanager.CreateSecretInput{
		Name: &s.name, ClientRequestToken: aws.String(placeholder), SecretString: aws.String(emptyContent),
		Description: aws.String("kept by keyturn"),
	})
	err = s.failed("creating", err)
	switch {
	case errors.Is(err, providers.ErrConflict):
		return nil
	case err == nil && aws.ToString(created.ARN) == "":
		return fmt.Errorf("creating of secret %q: %w", s.name, errNoAnswer)
	}
	return err
}

// content lays the bundle over the members of AWSCURRENT.
func (s *store) content(ctx context.Context, c *secretsmanager.Client, st state, b secret.Bundle) (members, error) {
	m := members{}
	if current := st.bearer(awsCurrent); current != "" && !same(current, placeholder) {
		out, err := c.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.name, VersionId: &current})
		if err != nil {
			return nil, s.failed("reading the foreign fields", err)
		}
		if m, err = parse(out); err != nil {
			return nil, fmt.Errorf("reading the foreign fields of secret %q: %w", s.name, err)
		}
	}
	own, err := b.Encode()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(own, &m); err != nil {
		return nil, fmt.Errorf("staging of secret %q: %w", s.name, providers.ErrInvalid)
	}
	return m, nil
}
