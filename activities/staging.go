package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// stagedBy is the version that a mint's key was staged in, if it was. A store may spell the token in other case.
func stagedBy(token string, f policy.Facts) (policy.StoredKey, bool) {
	at := slices.IndexFunc(f.Versions, func(v policy.StoredKey) bool { return strings.EqualFold(v.Token, token) && !v.Empty })
	if at < 0 {
		return policy.StoredKey{}, false
	}
	return f.Versions[at], true
}

// finishStaging ends a mint whose key was staged by an attempt that died before it could say so.
func (a *Activities) finishStaging(ctx context.Context, s *site, in IssueInput, facts policy.Facts, v policy.StoredKey) (ref key.Ref, ends time.Time, err error) {
	k, live := facts.Live(v.KeyID)
	if !live {
		return ref, ends, fmt.Errorf("%w: version %s", ErrStagedKeyDead, v.ID)
	}
	ref, err = a.record(ctx, s, in, key.Ref{
		Principal: k.Principal, KeyID: k.KeyID, StoreVersion: v.ID, Fingerprint: v.Fingerprint,
	}, policy.ResolvedWith(facts, k.KeyID))
	return ref, k.ExpiresAt, err
}

// record makes the staged key ours in the metadata, and removes the intents that are resolved with it.
func (a *Activities) record(ctx context.Context, s *site, in IssueInput, ref key.Ref, resolved []key.Intent) (key.Ref, error) {
	now := a.Now().UTC()
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		mine := owned(m, ref)
		if mine.IssuedAt.IsZero() {
			mine.IssuedAt = now
		}
		mine.Ref, mine.Rotation, mine.TurnedBackAt = ref, in.ID, time.Time{}
		resolve(m, resolved)
		m.Generation = max(m.Generation, s.spec.Generation)
		m.Inventory, m.Environment = s.spec.Inventory, s.spec.Credential.Environment
		return nil
	})
	if err != nil {
		return key.Ref{}, fmt.Errorf("recording key %s: %w", ref.KeyID, err)
	}
	in.Incoming = ref
	return ref, a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.KeyIssued, ref.KeyID, nil))
}
