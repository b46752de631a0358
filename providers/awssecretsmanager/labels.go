package awssecretsmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keyturn/keyturn/providers"
)

// move moves a staging label. from is who has it now, by which Secrets Manager compares and swaps; to may
// be empty. Whether it says yes or refuses, what counts is where the label is then: the SDK may have repeated a call whose
// reply got lost, and somebody may have moved it since. ErrConflict when it is elsewhere.
func (s *store) move(ctx context.Context, c *secretsmanager.Client, stage, from, to string) error {
	in := &secretsmanager.UpdateSecretVersionStageInput{SecretId: &s.name, VersionStage: &stage}
	if from != "" {
		in.RemoveFromVersionId = &from
	}
	if to != "" {
		in.MoveToVersionId = &to
	}
	_, err := c.UpdateSecretVersionStage(ctx, in)
	err = s.failed("moving "+stage, err)
	if err != nil && !errors.Is(err, providers.ErrInvalid) && !errors.Is(err, providers.ErrNotFound) {
		return err
	}
	now, lookErr := s.describe(ctx, c)
	switch {
	case lookErr != nil:
		return lookErr
	case now != nil && moved(now.VersionIdsToStages, stage, from, to):
		return nil
	case err == nil:
		return fmt.Errorf("moving %s of secret %q: %w: it is not where it was moved to: somebody else moves labels of this secret", stage, s.name, providers.ErrConflict)
	}
	return fmt.Errorf("%w: %w", providers.ErrConflict, err)
}

// moved tells by the labels of a secret's versions whether one was moved. AWSCURRENT leaves AWSPREVIOUS where it was: who has that
// had the other, until somebody moved it on.
func moved(labels map[string][]string, stage, from, to string) bool {
	for version, has := range labels {
		switch {
		case to == "" && same(version, from) && slices.Contains(has, stage):
			return false
		case same(version, to) && (slices.Contains(has, stage) || stage == awsCurrent && slices.Contains(has, awsPrevious)):
			return true
		}
	}
	return to == ""
}

// Promote implements providers.Store. Secrets Manager moves AWSPREVIOUS along by itself, and leaves
// AWSPENDING where it is.
func (s *store) Promote(ctx context.Context, from, to string) error {
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	st, err := s.look(ctx, c)
	if err != nil {
		return err
	}
	if _, ok := st.find(to); !ok {
		return fmt.Errorf("promoting of secret %q: %w: version %q", s.name, providers.ErrNotFound, to)
	}
	switch current := st.bearer(awsCurrent); {
	case same(current, to):
	case same(current, from), from == "" && same(current, placeholder):
		if err := s.move(ctx, c, awsCurrent, current, to); err != nil {
			return err
		}
	default:
		return fmt.Errorf("promoting of secret %q: %w: AWSCURRENT is on %q, not on %q", s.name, providers.ErrConflict, current, from)
	}
	return s.settle(ctx, c, to)
}

// settle sees that the promoted version is CURRENT, and takes AWSPENDING from it, and AWSPREVIOUS from the placeholder.
func (s *store) settle(ctx context.Context, c *secretsmanager.Client, promoted string) error {
	st, err := s.look(ctx, c)
	if err != nil {
		return err
	}
	if current := st.bearer(awsCurrent); !same(current, promoted) {
		return fmt.Errorf("promoting of secret %q: %w: AWSCURRENT is on %q again, not on %q", s.name, providers.ErrConflict, current, promoted)
	}
	if same(st.bearer(awsPending), promoted) {
		if err := s.move(ctx, c, awsPending, st.bearer(awsPending), ""); err != nil {
			return err
		}
	}
	if previous := st.bearer(awsPrevious); same(previous, placeholder) {
		return s.move(ctx, c, awsPrevious, previous, "")
	}
	return nil
}

// Prune implements providers.Store: it takes the version's labels, and Secrets Manager does the rest.
func (s *store) Prune(ctx context.Context, version string) error {
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	st, err := s.look(ctx, c)
	if err != nil {
		return err
	}
	v, _ := st.find(version)
	if slices.Contains(v.VersionStages, awsCurrent) {
		return fmt.Errorf("pruning version %s of secret %q: %w: it is CURRENT", version, s.name, providers.ErrDenied)
	}
	for _, stage := range v.VersionStages {
		if err := s.move(ctx, c, stage, version, ""); err != nil {
			return err
		}
	}
	return nil
}
