package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// Debt is what a finished run still owes.
type Debt = key.Debt

// The kinds of debt.
const (
	DebtRetiredAlive  = "retired-key-alive"
	DebtIncomingAlive = "incoming-key-alive"
	DebtVersionLeft   = "version-left"
	DebtCopiesLeft    = string(policy.FoundCopiesLeft)
	// DebtNotProved: a key is destroyed, and was not seen to be refused.
	DebtNotProved = string(policy.FoundNotProved)
	// DebtNotSeen: what became of a key could not be looked at when its rotation ended. Only a report has it.
	DebtNotSeen = "not-looked-at"
)

// The outcomes that the record tells apart, by what it finds.
const (
	outcomeCompleted  = "completed"
	outcomeWithDebt   = "completed-with-debt"
	outcomeRolledBack = "rolled-back"
	outcomeFailed     = key.OutcomeFailed
)

// RecordInput is how a rotation ended, as its workflow tells.
type RecordInput struct {
	Rotation
	Outcome string `json:"outcome"`
	Message string `json:"message"`
	// Settling: the run was to end one key that was left alive, and not to rotate. The last rotation is the one that
	// left it, which owes less now.
	Settling bool `json:"settling,omitempty"`
}

// Recorded is what the record says of the credential now.
type Recorded struct {
	// Outcome is how the rotation ended by what Record found.
	Outcome  string    `json:"outcome,omitempty"`
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// NextRun is when the next routine rotation is due.
	NextRun time.Time  `json:"nextRun,omitzero"`
	Debt    []key.Debt `json:"debt,omitempty"`
	// Left says, for people, where copies of dead keys may be left, and why.
	Left []string `json:"left,omitempty"`
}

// Record cleans up after a rotation and writes its end into the store's metadata and the audit record.
// Debt and outcome are what it finds at issuer and store, not what the run believes. Copies that an instance does not
// remove are debt, which the record of the next rotation takes up. Called again it finds the same.
func (a *Activities) Record(ctx context.Context, in RecordInput) (Recorded, error) {
	s, err := a.openHolding(ctx, in.Rotation, true) // called again it finds the run ended
	if err != nil {
		return Recorded{}, forTemporal(err)
	}
	defer s.release()
	defer s.beating(ctx)()
	r, err := a.conclude(ctx, s, in)
	if err != nil {
		return Recorded{}, forTemporal(fmt.Errorf("recording the rotation of %q: %w", s.spec.Credential.Name, err))
	}
	return r, nil
}

func (a *Activities) conclude(ctx context.Context, s *site, in RecordInput) (Recorded, error) {
	facts, err := s.facts(ctx, false)
	if err != nil {
		return Recorded{}, err
	}
	unsure := len(debt(facts, s.spec.Credential.Adopt, nil, nil, nil, a.Now())) > 0 || len(dead(facts, in.Settling)) > 0 || len(facts.Metadata.Exposed) > 0
	if settle := facts.Capabilities.ConsistentWithin; settle > 0 && unsure {
		// The issuer may still list what was destroyed a moment ago, and not list what it has.
		if err := patience.Pause(ctx, settle); err != nil {
			return Recorded{}, err
		}
		if facts, err = s.facts(ctx, false); err != nil {
			return Recorded{}, err
		}
	}
	in.Retiring, in.Incoming = facts.Named(in.Retiring), facts.Named(in.Incoming)
	var endedKeys []string
	left := map[string]string{}     // why copies of a dead key are, by its ID
	unproved := map[string]string{} // why a destroyed key is not seen to be refused, by its ID
	if gone := dead(facts, in.Settling); len(gone) > 0 {
		until := time.Now().Add(purgeWithin)
		for _, k := range gone {
			if k.ProbedAt.IsZero() && !policy.Lost(k) {
				probe, err := a.probe(ctx, s, facts, k.Ref)
				switch {
				case ctx.Err() != nil:
					return Recorded{}, ctx.Err() // what was cut short tells nothing
				case err != nil:
					unproved[k.KeyID] = capText(err.Error())
					continue // its version stays, to try it with again
				}
				if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.ProbeRefused, k.KeyID, map[string]string{"key": k.KeyID, "probe": probe})); err != nil {
					return Recorded{}, err
				}
			}
			why, err := a.cleanUp(ctx, s, in.Rotation, facts.Metadata, k, until)
			if err != nil {
				return Recorded{}, err
			}
			if why != "" {
				left[k.KeyID] = why
			}
		}
		if facts, err = s.facts(ctx, false); err != nil {
			return Recorded{}, err
		}
		for _, k := range gone {
			if left[k.KeyID] == "" && unproved[k.KeyID] == "" {
				disown(&facts.Metadata, k.KeyID)
				endedKeys = append(endedKeys, k.KeyID)
			}
		}
	}
	m := facts.Metadata
	if err := s.fenced(m); err != nil {
		return Recorded{}, err
	}
	m.Lease, m.Ended, m.Incident = nil, s.lease.Run, nil // it is given back with this
	resolve(&m, policy.Resolved(facts, s.spec.Credential.Adopt))
	m.Exposed = stillExposed(facts)
	m.Debt = debt(facts, s.spec.Credential.Adopt, left, unproved, m.Debt, a.Now())
	outcome := ended(facts, in, s.declared != nil, len(s.exposed(facts)), len(m.Debt) > 0)
	if current, ok := facts.Version(key.Current); ok {
		if outcome != outcomeFailed && policy.Kept(s.spec.Credential, facts) {
			if mine := owned(&m, key.Ref{KeyID: current.KeyID}); mine.KeptAt.IsZero() {
				mine.KeptAt = a.Now().UTC()
			}
		}
		if mine, ok := m.Key(current.KeyID); ok && !mine.IssuedAt.IsZero() {
			k, _ := facts.Live(current.KeyID)
			m.RotateBy = policy.RotateBy(s.spec.Credential, mine.IssuedAt, k.ExpiresAt)
		}
	}
	before := m.LastRotation
	if in.Settling {
		m.LastRotation = settled(facts, len(m.Debt) > 0, a.Now())
	} else if m.LastRotation == nil || m.LastRotation.ID != in.ID || m.LastRotation.Outcome != outcome {
		m.LastRotation = &key.LastRotation{ID: in.ID, Outcome: outcome, At: a.Now().UTC()}
	}
	m.LastRotation = withEnded(m.LastRotation, before, endedKeys, s.listed())
	// All of it follows from the facts: whatever else was written since then is a reason to look again.
	if err := s.counts(ctx); err != nil {
		return Recorded{}, err
	}
	if m, err = s.put(ctx, m); err != nil {
		return Recorded{}, err
	}
	r := Recorded{Outcome: outcome, RotateBy: m.RotateBy, Debt: m.Debt}
	if d := policy.CurrentWorks(facts); !d.OK {
		r.Left = append(r.Left, d.Message)
	}
	for _, d := range m.Debt {
		detail := map[string]string{"kind": d.Kind, "about": d.About}
		if d.Kind == DebtCopiesLeft {
			detail["why"] = left[d.About]
			r.Left = append(r.Left, fmt.Sprintf("copies of the dead key %s may be left: %s", d.About, left[d.About]))
		}
		if d.Kind == DebtNotProved {
			detail["why"] = unproved[d.About]
			r.Left = append(r.Left, fmt.Sprintf("key %s was destroyed and is not proved to be refused: %s", d.About, unproved[d.About]))
		}
		found := a.event(ctx, in.Rotation, s, audit.DebtFound, d.Kind+"/"+d.About, detail)
		if err := a.Audit.Append(ctx, found); err != nil {
			return Recorded{}, err
		}
	}
	// Each run has an end of its own in the record: one that lies displaces no true one.
	about := acting(ctx).run + "/" + outcome
	end := a.event(ctx, in.Rotation, s, audit.RotationEnded, about, map[string]string{"outcome": outcome, "told": in.Outcome + ": " + in.Message})
	if err := a.Audit.Append(ctx, end); err != nil {
		return Recorded{}, err
	}
	facts.Metadata = m
	state := policy.StateOf(s.spec.Credential, facts)
	a.observe(ctx, s.spec, state)
	r.NextRun = policy.NextRun(s.spec.Credential, state, a.Now())
	return r, nil
}

// ended is how a rotation ended by the facts: what is told of it counts as far as they bear it out.
func ended(f policy.Facts, in RecordInput, emergency bool, exposed int, owes bool) string {
	minted := func(keyID string) bool {
		k, ours := f.Metadata.Key(keyID)
		return ours && k.Rotation == in.ID
	}
	current, _ := f.Version(key.Current)
	switch told := in.Outcome; {
	case !policy.CurrentWorks(f).OK: // whatever was done, consumers have no key
	case exposed > 0: // what the emergency is for
	case (told == outcomeCompleted || told == outcomeWithDebt) && (minted(current.KeyID) || in.Settling || emergency): // which may mint nothing
		if owes {
			return outcomeWithDebt
		}
		return outcomeCompleted
	case told == outcomeRolledBack && !slices.ContainsFunc(f.Keys, func(k key.Info) bool { return minted(k.KeyID) }):
		return outcomeRolledBack
	}
	return outcomeFailed
}

// stillExposed are the exposed keys that are not gone.
func stillExposed(f policy.Facts) map[string]string {
	left := map[string]string{}
	for id, by := range f.Metadata.Exposed {
		_, live := f.Live(id)
		if _, ours := f.Metadata.Key(id); live || ours {
			left[id] = by
		}
	}
	if len(left) == 0 {
		return nil
	}
	return left
}

// settled is the last rotation after a run that was to end what it left alive. One that was cut off, before its end was
// recorded, ends here.
func settled(f policy.Facts, owes bool, now time.Time) *key.LastRotation {
	last := f.Metadata.LastRotation
	current, _ := f.Version(key.Current)
	mine, _ := f.Metadata.Key(current.KeyID)
	cutOff := mine.Rotation != "" && !mine.PromotedAt.IsZero() && (last == nil || mine.PromotedAt.After(last.At))
	if cutOff {
		last = &key.LastRotation{ID: mine.Rotation, Outcome: outcomeWithDebt, At: now.UTC()}
	}
	if last != nil && last.Outcome == outcomeWithDebt && !owes {
		last.Outcome = outcomeCompleted
	}
	return last
}

// withEnded adds to the last rotation the keys that it ended. Of those that the one before it ended it keeps the exposed ones: an emergency
// may come after one that was taken for dead.
func withEnded(last, before *key.LastRotation, ended, exposed []string) *key.LastRotation {
	if last == nil {
		return nil
	}
	with := *last
	with.Ended = ended
	if before != nil {
		for _, id := range before.Ended {
			if before.ID == last.ID || slices.Contains(exposed, id) {
				with.Ended = policy.Union(with.Ended, []string{id})
			}
		}
	}
	return &with
}

// dead are the keys that the metadata names and the issuer does not have any more. One in CURRENT is left to a person, and one in
// PENDING to Discard, unless the run minted none: then nothing follows in which it would be finished.
func dead(f policy.Facts, settling bool) []key.Owned {
	return slices.DeleteFunc(slices.Clone(f.Metadata.Keys), func(k key.Owned) bool {
		_, live := f.Live(k.KeyID)
		return live || slices.ContainsFunc(f.Versions, func(v policy.StoredKey) bool {
			return v.ID == k.StoreVersion && (v.KeyID != "" || v.Has(key.Current) || v.Has(key.Pending) && !settling)
		})
	})
}

// cleanUp removes what is left of a dead key: copies at consumers, and its stored version. left says why there may still be
// copies; the version is gone all the same.
func (a *Activities) cleanUp(ctx context.Context, s *site, r Rotation, m key.Metadata, gone key.Owned, until time.Time) (left string, err error) {
	if gone.StoreVersion == "" && policy.Lost(gone) {
		return "", nil // nobody ever had it
	}
	owes := m.Owes(DebtCopiesLeft, gone.KeyID)
	if owes && m.LastRotation != nil && m.LastRotation.ID == r.ID {
		return "purging failed when this rotation ended", nil // which is in the record, so that it stays
	}
	if left, err = a.purge(ctx, s, r, gone.Ref, until); err != nil || gone.StoreVersion == "" || owes { // with the debt, the version went
		return left, err
	}
	if err := s.prune(ctx, gone.StoreVersion); err != nil {
		return left, fmt.Errorf("pruning version %s: %w", gone.StoreVersion, err)
	}
	return left, a.Audit.Append(ctx, a.event(ctx, r, s, audit.VersionPruned, gone.StoreVersion, nil))
}

const (
	// purgeWithin bounds what the purges of dead keys take together: the record does not wait for an instance that hangs.
	purgeWithin = 30 * time.Second
	// purgeTries is how often an instance is tried: it may just be starting.
	purgeTries = 5
)

// purge removes the copies of a dead key at every instance that keeps or caches some. One that fails does not keep the
// others from it: left names it, and how many more there are.
func (a *Activities) purge(ctx context.Context, s *site, r Rotation, gone key.Ref, until time.Time) (left string, err error) {
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	run := fanOut{atOnce: s.spec.Credential.Parallel()}
	var mu sync.Mutex
	var failed []string
	var events []audit.Event
	for _, c := range s.consumers {
		var purgers []providers.Purger
		if keeps, can := c.target.(providers.Purger); can {
			purgers = append(purgers, keeps)
		}
		if c.purger != nil {
			purgers = append(purgers, c.purger)
		}
		if len(purgers) == 0 {
			continue
		}
		for _, name := range c.InstanceNames() {
			run.do(func() {
				purged, err := a.purgeOne(within, s, purgers, name, gone)
				about := policy.InstanceName(c.Name, name)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = append(failed, fmt.Sprintf("%s: %s", about, trouble(err)))
				} else if purged {
					events = append(events, a.event(ctx, r, s, audit.CopiesPurged, gone.KeyID+"/"+about, map[string]string{"key": gone.KeyID, "instance": about}))
				}
			})
		}
	}
	run.wait()
	if ctx.Err() != nil {
		return "", ctx.Err() // what was cut short tells nothing
	}
	slices.SortFunc(events, func(a, b audit.Event) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(failed)
	if len(failed) > 0 {
		left = "purging failed at " + failed[0]
	}
	if more := len(failed) - 1; more > 0 {
		left += fmt.Sprintf(" (and at %d more)", more)
	}
	return left, a.Audit.Append(ctx, events...)
}

// purgeOne has one instance forget a key, at all places where it may have it, and tries again for some moments.
func (a *Activities) purgeOne(ctx context.Context, s *site, purgers []providers.Purger, instance string, gone key.Ref) (purged bool, err error) {
	for _, p := range purgers {
		once := func() error {
			if err := s.counts(ctx); err != nil {
				return err
			}
			return p.Purge(ctx, instance, gone)
		}
		err := once()
		pause := a.PollEvery
		for tries := 1; err != nil && !final(err) && tries < purgeTries && patience.Pause(ctx, pause) == nil; tries++ {
			err = once()
			pause *= 2
		}
		if err != nil && !errors.Is(err, providers.ErrUnsupported) { // else it keeps none that keyturn could reach
			return false, err
		}
		purged = purged || err == nil
	}
	return purged, nil
}

// debt lists what is still owed, keeping the time since when; left are the dead keys of which there may be copies, unproved
// those that were not seen to be refused.
func debt(f policy.Facts, adopt []string, left, unproved map[string]string, before []key.Debt, now time.Time) []key.Debt {
	var owes []key.Debt
	add := func(kind, about string) {
		since := now.UTC()
		for _, d := range before {
			if d.Kind == kind && d.About == about {
				since = d.Since
			}
		}
		owes = append(owes, key.Debt{Kind: kind, About: about, Since: since})
	}
	standings := f.Standings(adopt)
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case policy.StandingRetired:
			add(DebtRetiredAlive, k.KeyID)
		case policy.StandingIncoming, policy.StandingOrphan, policy.StandingUnproved:
			add(DebtIncomingAlive, k.KeyID)
		}
	}
	if v, ok := f.Unfinished(); ok {
		add(DebtVersionLeft, v.ID)
	}
	for _, k := range f.Metadata.Keys {
		if left[k.KeyID] != "" {
			add(DebtCopiesLeft, k.KeyID)
		}
		if unproved[k.KeyID] != "" {
			add(DebtNotProved, k.KeyID)
		}
	}
	return owes
}

// Log writes events of the workflow itself into the audit record: gates, decisions, turns. It needs no
// provider, so that a refused spec leaves a trace too.
func (a *Activities) Log(ctx context.Context, events []audit.Event) error {
	name, ok := Credential(activity.GetInfo(ctx).WorkflowExecution.ID)
	if !ok {
		return forTemporal(fmt.Errorf("logging events: %w: not in a rotation", ErrSpec))
	}
	return forTemporal(a.Audit.Append(ctx, told(ctx, events, name, a.Now())...))
}
