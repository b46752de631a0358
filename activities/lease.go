package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// The lease in a store's metadata says which run may act on its credential: Temporal's workflow ID is the mutex of one
// namespace alone, and an attempt that outlived its run asks nobody. It is taken with the first effect of a run, each write
// renews it, what looks renews it where nobody writes, and Record gives it back. Every write of the metadata is refused to who
// has lost it.

// standings are since when this process has seen the metadata of secrets as they are.
type standings struct {
	mu   sync.Mutex
	seen map[string]standing
}

type standing struct {
	revision key.Revision
	since    time.Time
}

// note tells for how long the revision has stood, as far as this process saw.
func (s *standings) note(secret string, revision key.Revision, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]standing{}
	}
	if before, known := s.seen[secret]; known && before.revision == revision {
		return now.Sub(before.since)
	}
	s.seen[secret] = standing{revision, now}
	return 0
}

// since is when the secret was last seen to have changed; zero when it was never looked at.
func (s *standings) since(secret string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[secret].since
}

// secret names the one that the metadata is of, among all accounts.
func (s *site) secret() string { return s.spec.Credential.Store.Account + "/" + s.path }

// mayHold judges whether the credential's rotation may take its lease from who holds it.
func (s *site) mayHold(m key.Metadata, run key.Lease) policy.Decision {
	stood := s.standings.note(s.secret(), m.Revision, s.now())
	return policy.MayHold(m.Lease, run, stood)
}

// holder is whoever runs the credential's rotation, or imports its key.
func (s *site) holder() key.Lease {
	return key.Lease{Namespace: s.namespace, Workflow: s.workflow, Term: key.LeaseTerm}
}

// run is the lease of the activity's own run.
func (s *site) run(ctx context.Context, r Rotation) *key.Lease {
	mine := s.holder()
	mine.Rotation, mine.Run = r.ID, acting(ctx).run
	return &mine
}

// take takes the lease for the activity's run, or renews it when the run has it: ErrHeld when another may have it still, or when
// the run gave it back and does not take it again.
func (s *site) take(ctx context.Context, r Rotation, again bool) error {
	mine := s.run(ctx, r)
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		if m.Lease != nil && *m.Lease == *mine {
			known := !s.standings.since(s.secret()).IsZero() // else it may be as old as its term
			if stood := s.standings.note(s.secret(), m.Revision, s.now()); known && stood < key.LeaseTerm/2 || s.within() != nil {
				return errUnchanged
			}
			return nil // what waits for long may write nothing else
		}
		if err := s.within(); err != nil {
			return err
		}
		if d := s.mayHold(*m, *mine); !d.OK {
			refusing(ctx, d)
			return fmt.Errorf("%w: %s", ErrHeld, d.Message)
		}
		if m.Ended == mine.Run && mine.Run != "" && !again {
			return errEnded
		}
		m.Lease = mine
		return nil
	})
	s.lease = mine
	return err
}

// errEnded is an ErrHeld: it is too late for an activity that outlived its run.
var errEnded = fmt.Errorf("%w: this run has ended", ErrHeld)

// fenced refuses a write of a run that has not the lease any more.
func (s *site) fenced(m key.Metadata) error {
	switch {
	case s.lease == nil || m.Lease != nil && *m.Lease == *s.lease:
		return nil
	case m.Lease == nil && m.Ended == s.lease.Run:
		return errEnded
	case m.Lease == nil:
		return fmt.Errorf("%w: the lease is not this run's any more; run %q had it last", ErrHeld, m.Ended)
	}
	return fmt.Errorf("%w: run %q of %s has taken over", ErrHeld, m.Lease.Run, m.Lease.Workflow)
}

// counts refuses a write of an attempt that Temporal does not wait for any more. It is asked right before each.
func (s *site) counts(ctx context.Context) error {
	if s.acknowledge == nil {
		return nil
	}
	return s.acknowledge(ctx, s.heartbeat)
}

// mayWrite is fenced and counts in one, for a write that is none of the metadata.
func (s *site) mayWrite(ctx context.Context) error {
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("reading metadata of the store: %w", err)
	}
	if err := s.fenced(m); err != nil {
		return err
	}
	return s.counts(ctx)
}

// renew keeps the lease of a run that only looks: past half of its term, and whenever this process does not know how old it is.
// What it cannot renew it leaves to the next look.
func (s *site) renew(ctx context.Context, r Rotation) {
	if last := s.standings.since(s.secret()); !last.IsZero() && s.now().Sub(last) < key.LeaseTerm/2 {
		return
	}
	m, err := s.store.Metadata(ctx)
	if err == nil && m.Lease != nil && *m.Lease == *s.run(ctx, r) {
		m, err = s.put(ctx, m)
	}
	if err != nil && !errors.Is(err, providers.ErrConflict) { // who wrote meanwhile renewed it
		logger(ctx).Warn("the lease of a credential is not renewed", "credential", s.spec.Credential.Name, "error", err.Error())
		return
	}
	s.standings.note(s.secret(), m.Revision, s.now())
}
