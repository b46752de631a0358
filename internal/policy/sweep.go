package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// FindingKind names what Sweep found. Kinds are stable.
type FindingKind string

// The kinds of findings.
const (
	FoundOverdue         FindingKind = "overdue"
	FoundStuck           FindingKind = "rotation-stuck"
	FoundFailed          FindingKind = "rotation-failed"
	FoundTerminated      FindingKind = "rotation-terminated"
	FoundPendingLeft     FindingKind = "pending-left"
	FoundRetiredMissed   FindingKind = "retired-key-missed"
	FoundRetiredAlive    FindingKind = "retired-key-alive"
	FoundIncomingAlive   FindingKind = "incoming-key-alive"
	FoundCopiesLeft      FindingKind = "copies-left"
	FoundNotProved       FindingKind = "not-proved-dead"
	FoundExposedAlive    FindingKind = "exposed-key-alive"
	FoundCurrentNotLive  FindingKind = "current-not-live"
	FoundCurrentDisabled FindingKind = "current-disabled"
	FoundDrift           FindingKind = "drift"
	FoundSilent          FindingKind = "not-attesting"
	FoundUnmanaged       FindingKind = "unmanaged-key"
	FoundOrphaned        FindingKind = "orphaned-key"
	FoundExpiring        FindingKind = "signature-expires"
	FoundSpecRefused     FindingKind = "spec-refused"
	FoundNotLooked       FindingKind = "not-looked"
	FoundUnreviewed      FindingKind = "review-overdue"
	FoundClaimedTwice    FindingKind = "claimed-twice"
)

// FindingKinds lists them all, those that need somebody soonest first.
var FindingKinds = []FindingKind{
	FoundExposedAlive, FoundCurrentNotLive, FoundCurrentDisabled, FoundRetiredMissed, FoundFailed, FoundTerminated, FoundStuck, FoundDrift, FoundOverdue, FoundUnreviewed, FoundSpecRefused,
	FoundClaimedTwice, FoundRetiredAlive, FoundExpiring, FoundNotLooked, FoundSilent, FoundPendingLeft, FoundIncomingAlive, FoundCopiesLeft, FoundNotProved, FoundOrphaned, FoundUnmanaged,
}

// alarming kinds are told as alerts; the others ask somebody to do something, in time.
var alarming = []FindingKind{FoundExposedAlive, FoundCurrentNotLive, FoundCurrentDisabled, FoundRetiredMissed, FoundFailed, FoundTerminated, FoundStuck, FoundDrift, FoundOverdue, FoundUnreviewed, FoundSpecRefused}

// Alarming tells whether a finding should wake somebody.
func (f Finding) Alarming() bool { return slices.Contains(alarming, f.Kind) }

// Finding is something that nobody looks after.
type Finding struct {
	// ID is the same in each sweep that finds it again.
	ID         string      `json:"id"`
	Kind       FindingKind `json:"kind"`
	Inventory  string      `json:"inventory,omitempty"`
	Credential string      `json:"credential,omitempty"`
	Owner      string      `json:"owner,omitempty"`
	// Notify are the notifiers that the credential names; empty for all.
	Notify []string `json:"notify,omitempty"`
	// About names the key, consumer, version, signer or account.
	About string `json:"about,omitempty"`
	// Message says what is so, Do what to do.
	Message string `json:"message"`
	Do      string `json:"do"`
	// Since is when a sweep found it first.
	Since time.Time `json:"since,omitzero"`
}

// findingID names a finding by what it is about, in 64 bits.
func findingID(kind FindingKind, parts ...string) string {
	sum := sha256.Sum256([]byte(string(kind) + "\x00" + strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// SweptCredential is what a sweep gathered of one credential.
type SweptCredential struct {
	Spec  inventory.Spec
	Facts Facts
	Run   Run
	// FailedBefore: the sweep before saw the same step of the run fail, some attempts ago.
	FailedBefore bool
	// Paused is why no routine rotation begins; empty when they do.
	Paused string
	// SlotsFull is how many slots routine rotations have when all are taken; 0 when one is free.
	SlotsFull int
}

// soon is how long before its end a signature is told of.
const soon = 14 * 24 * time.Hour

// Bounds of what is taken for stuck.
const (
	stuckTasks = 5                // tries of a workflow task
	stuckTask  = 10 * time.Minute // since one was due
	stuckSteps = 10               // tries of a step that fails in two sweeps in a row
	// stuckBeyond is how much longer than all its waits together a rotation may take.
	stuckBeyond = 3 * 24 * time.Hour
	// stuckGate is what a gate may take whose request does not expire.
	stuckGate = 7 * 24 * time.Hour
)

// SweepRun judges the latest run alone, of a credential at which nobody could look.
func SweepRun(c SweptCredential, now time.Time) []Finding {
	s := sweeping{c: c, now: now}
	s.run()
	return s.findings
}

// Sweep judges one credential. Of one in a rotation only the rotation itself is judged: the rest is its business.
func Sweep(c SweptCredential, now time.Time) []Finding {
	s := sweeping{c: c, now: now}
	s.signature()
	s.run()
	if c.Run.Running {
		return s.findings
	}
	s.overdue()
	s.unreviewed() // a rotation that runs can be reviewed when it has ended
	s.keys()
	s.instances()
	return s.findings
}

type sweeping struct {
	c        SweptCredential
	now      time.Time
	findings []Finding
}

func (s *sweeping) find(kind FindingKind, about, message, do string) {
	s.findAs(findingID(kind, s.c.Spec.Inventory, s.name(), about), kind, about, message, do)
}

// findRun finds something at the rotation of this ID. Each rotation is one of its own: people are told of the second that ends in the middle, too.
func (s *sweeping) findRun(kind FindingKind, rotation, about, message, do string) {
	s.findAs(findingID(kind, s.c.Spec.Inventory, s.name(), about, rotation), kind, about, message, do)
}

func (s *sweeping) findAs(id string, kind FindingKind, about, message, do string) {
	c := s.c.Spec.Credential
	s.findings = append(s.findings, Finding{
		ID: id, Kind: kind, Inventory: s.c.Spec.Inventory, Credential: c.Name, Owner: c.Owner,
		Notify: c.Notify, About: about, Message: message, Do: do,
	})
}

func (s *sweeping) name() string { return s.c.Spec.Credential.Name }

// signature tells of a spec by which nothing can begin soon.
func (s *sweeping) signature() {
	end := s.c.Spec.NotAfter
	if end.IsZero() || s.now.Before(end.Add(-soon)) {
		return
	}
	verb := "expires"
	if !s.now.Before(end) {
		verb = "expired"
	}
	s.find(FoundExpiring, "spec", fmt.Sprintf("the signature of its spec %s %s: after that no rotation begins", verb, end.UTC().Format(time.RFC3339)),
		"apply it again, signed: keyturn apply -f FILE --sign KEY")
}

func (s *sweeping) run() {
	r := s.c.Run
	see := "see it with: keyturn status " + s.name()
	switch {
	case r.Running:
		s.stuck()
	case r.Status == RunFailed:
		s.findRun(FoundFailed, r.Rotation, "", "its last rotation failed, "+r.ClosedAt.UTC().Format(time.RFC3339), see+"; mend the cause it names; "+s.again())
	case r.Status == RunTerminated, r.Status == RunTimedOut, r.Status == RunCanceled:
		s.findRun(FoundTerminated, r.Rotation, "", fmt.Sprintf("its last rotation %s in the middle, %s", r.Status.cutOff(), r.ClosedAt.UTC().Format(time.RFC3339)),
			s.again())
	case r.Status == "" && s.c.Facts.Metadata.LastRotation != nil && s.c.Facts.Metadata.LastRotation.Outcome == key.OutcomeFailed:
		s.findRun(FoundFailed, s.c.Facts.Metadata.LastRotation.ID, "", "its last rotation failed, "+s.c.Facts.Metadata.LastRotation.At.UTC().Format(time.RFC3339)+"; its history is deleted", "see with keyturn plan "+s.name()+" what is in the way, mend it, and rotate again")
	}
}

// again is what to do so that another rotation follows one that ended in the middle: first about what is in its way.
func (s *sweeping) again() string {
	c, f := s.c.Spec.Credential, s.c.Facts
	standings := f.Standings(c.Adopt)
	retired, kept := "", 0
	for _, k := range f.Keys {
		switch standings[k.KeyID] {
		case StandingIncoming, StandingOrphan:
			continue // the next rotation destroys it
		case StandingRetired:
			retired = cmp.Or(retired, k.KeyID)
		}
		kept++
	}
	full := f.Capabilities.Slots > 0 && kept >= f.Capabilities.Slots
	rotate := "rotate again, and what it left is found and cleared away: keyturn rotate " + c.Name
	if retired != "" {
		switch d := MayTakeUp(s.c, retired, s.now); {
		case d.OK:
			return fmt.Sprintf("let the revoke gate be opened for its retired key %s: keyturn sweep --now; approve: keyturn approve %s --gate revoke; when that run has ended, %s", retired, c.Name, rotate)
		case full && d.Reason != NotOurs:
			return fmt.Sprintf("no rotation begins while the retired key %s has a slot: %s; once it is gone, %s", retired, d.Message, rotate)
		}
	}
	if full {
		return fmt.Sprintf("no rotation begins, since %s, and %s", slotsTaken(c, f, standings, kept), rotate)
	}
	return rotate
}

func (s *sweeping) stuck() {
	r := s.c.Run
	const about = "run"
	_, failing := r.FailingStep()
	switch longest := LongestRun(s.c.Spec.Credential); {
	case r.TaskAttempts >= stuckTasks || !r.TaskSince.IsZero() && s.now.Sub(r.TaskSince) > stuckTask:
		s.findRun(FoundStuck, r.Rotation, about, fmt.Sprintf("its rotation stands still: its next task waits since %s and was tried %s", r.TaskSince.UTC().Format(time.RFC3339), Counted(r.TaskAttempts, "time")),
			"run keyturn doctor: is there a worker of the current build? If so, the run in the Web UI names the error: go back to the build that began it")
	case failing && s.c.FailedBefore:
		s.findRun(FoundStuck, r.Rotation, about, fmt.Sprintf("step %s of its rotation is at attempt %d, and failed when two sweeps in a row looked; the last one failed: %s", r.Step, r.StepAttempts, r.StepFailure),
			"mend what the error names; the step is tried again by itself. Whether it can be turned back, and how, says: keyturn status "+s.name())
	case s.now.Sub(r.StartedAt) > longest:
		s.findRun(FoundStuck, r.Rotation, about, fmt.Sprintf("its rotation runs since %s, longer than all its waits together (%s)", r.StartedAt.UTC().Format(time.RFC3339), inventory.Duration(longest.Round(time.Minute))),
			"see what it waits for, and who can unblock it: keyturn status "+s.name())
	}
}

// LongestRun is how long a rotation may take before somebody should look.
func LongestRun(c inventory.Credential) time.Duration {
	waves := time.Duration(len(c.Waves(func(string) bool { return false })))
	caches := c.LongestCache().Std()
	longest := waves*(c.WaveTimeout.Std()+c.WaveSoak.Std()+caches) + caches + c.Overlap.Std() + c.QuietWindow.Std() + c.DisableSoak.Std() + stuckBeyond
	for _, g := range []inventory.Gate{inventory.GateSignoff, inventory.GateRevoke} {
		if a := c.Approvals.For(g); a != nil && a.Count > 0 {
			longest += cmp.Or(a.RequestExpires.Std(), stuckGate)
		}
	}
	return longest
}

func (s *sweeping) overdue() {
	state := StateOf(s.c.Spec.Credential, s.c.Facts)
	if state.RotateBy.IsZero() || !s.now.After(state.RotateBy) {
		return
	}
	message := fmt.Sprintf("its key %s was to be rotated by %s", state.KeyID, state.RotateBy.UTC().Format(time.RFC3339))
	do := "see what keeps it from rotating: keyturn plan " + s.name() + "; or rotate now: keyturn rotate " + s.name()
	switch full := s.c.SlotsFull; {
	case s.c.Paused != "":
		message += ", and no routine rotation begins: " + s.c.Paused
		do = "end the pause, or rotate now: keyturn rotate " + s.name()
	case full > 0:
		message += fmt.Sprintf(", and all slots of routine rotations are taken (%d)", full)
		do = "raise maxRotations in the worker configuration, or rotate now, which needs no slot: keyturn rotate " + s.name()
	}
	s.find(FoundOverdue, state.KeyID, message, do)
}

func (s *sweeping) unreviewed() {
	for _, b := range ReviewsOverdue(s.c.Facts.Metadata, s.now) {
		s.find(FoundUnreviewed, b.ID, unreviewed([]key.BrokenGlass{b})+", so that no routine rotation begins", HowToReview(s.c.Spec.Credential.Name))
	}
}

func (s *sweeping) keys() {
	c, f := s.c.Spec.Credential, s.c.Facts
	current, hasCurrent := f.Version(key.Current)
	if hasCurrent && current.KeyID == "" {
		do := "put the value that consumers use into the store"
		if f.endedOfOurs(current) {
			do = "give consumers another one: keyturn rotate " + c.Name
		}
		s.find(FoundCurrentNotLive, current.ID, fmt.Sprintf("the store's CURRENT (version %s) is no live key: who reads it is refused", current.ID), do)
	}
	if pending, ok := f.Unfinished(); ok {
		what := "is PENDING"
		if pending.Empty {
			what = "is PENDING without a value, so that whoever reads PENDING gets none"
		}
		s.find(FoundPendingLeft, pending.ID, fmt.Sprintf("version %s of the store %s, and no rotation runs", pending.ID, what),
			"the next rotation clears it away: keyturn rotate "+c.Name)
	}
	for _, d := range f.Metadata.Debt {
		if d.Kind == string(FoundCopiesLeft) {
			s.find(FoundCopiesLeft, d.About, fmt.Sprintf("copies of the dead key %s may be left at consumers, whose purge failed at %s", d.About, ago(d.Since)),
				"mend what its last rotation names (keyturn status "+c.Name+"); the next rotation purges them again: keyturn rotate "+c.Name)
		}
	}
	for _, d := range f.Metadata.Debt {
		if d.Kind == string(FoundNotProved) {
			s.find(FoundNotProved, d.About, fmt.Sprintf("key %s was destroyed, and was not seen to be refused since: it may still be accepted", d.About),
				"find out who accepts it still, or why it cannot be tried: its last rotation says that (keyturn status "+c.Name+"); the next rotation tries it again: keyturn rotate "+c.Name)
		}
	}
	standings := f.Standings(c.Adopt)
	for _, k := range f.Keys {
		by, exposed := f.Metadata.Exposed[k.KeyID]
		if exposed {
			s.find(FoundExposedAlive, k.KeyID, fmt.Sprintf("key %s is exposed, by %s, and still alive (%s, last used %s)", k.KeyID, by, k.State, ago(k.LastUsedAt)),
				fmt.Sprintf("end it: keyturn emergency %s --key %s=%s --sign KEY --reason ...", c.Name, c.Name, k.KeyID))
		}
		switch standings[k.KeyID] {
		case StandingCurrent:
			if k.State == key.Disabled && !exposed {
				s.find(FoundCurrentDisabled, k.KeyID, fmt.Sprintf("the current key %s is disabled at the issuer: who uses it is refused", k.KeyID),
					"enable it at the issuer; if it was disabled since it is exposed, handle that as an emergency")
			}
		case StandingRetired:
			if d := Missed(f, f.Ref(k)); d.Reason == RetiringMissed { // the run that disabled it is over
				s.find(FoundRetiredMissed, k.KeyID, d.Message, "enable it at the issuer until whoever uses it has another one, or is declared as a consumer; a sweep asks for its end once it is quiet")
			} else if d := MayTakeUp(s.c, k.KeyID, s.now); d.Reason != NotOurs {
				s.find(FoundRetiredAlive, k.KeyID, fmt.Sprintf("the retired key %s is still alive (%s, last used %s)", k.KeyID, k.State, ago(k.LastUsedAt)), d.Message)
			}
		case StandingIncoming, StandingOrphan:
			s.find(FoundIncomingAlive, k.KeyID, fmt.Sprintf("key %s is alive, of a rotation that did not end", k.KeyID), "the next rotation goes on with it, or destroys it once it is quiet: keyturn rotate "+c.Name)
		case StandingUnproved:
			s.find(FoundUnmanaged, k.KeyID, fmt.Sprintf("key %s of %s may be of a mint that was interrupted, and it is not proved whose it is (%s, created %s, last used %s)", k.KeyID, k.Principal, k.State, ago(k.CreatedAt), ago(k.LastUsedAt)),
				"destroy it at the issuer if nobody made it by hand and nobody uses it, or name it under adopt of "+c.Name+"; while it is active no rotation begins: keyturn plan "+c.Name+" says more")
		case StandingUnknown:
			s.find(FoundUnmanaged, k.KeyID, fmt.Sprintf("key %s of %s is not ours (%s, created %s, last used %s)", k.KeyID, k.Principal, k.State, ago(k.CreatedAt), ago(k.LastUsedAt)),
				fmt.Sprintf("name it under adopt of %s, apply that, and end it with: %s; or destroy it at the issuer if nobody uses it; while it is active no rotation begins", c.Name, RetireWith(c.Name, k.KeyID)))
		}
	}
}

// instances holds what each consumer states against the store's CURRENT.
func (s *sweeping) instances() {
	f := s.c.Facts
	current, ok := f.Version(key.Current)
	if !ok || current.KeyID == "" {
		return
	}
	live, ok := f.Live(current.KeyID)
	if !ok {
		return
	}
	ref := f.Ref(live)
	drifted, silent := map[string][]string{}, map[string][]string{}
	for _, i := range f.Instances {
		switch {
		case i.Statement == nil:
			silent[i.Consumer] = append(silent[i.Consumer], i.Name()+" ("+i.NotAttesting+")")
		case !i.Statement.Holds(ref) && !otherName(i.Statement.Keys, f, ref):
			drifted[i.Consumer] = append(drifted[i.Consumer], fmt.Sprintf("%s (states %s)", i.Name(), strings.Join(i.Statement.Keys, ", ")))
		}
	}
	for _, consumer := range sortedKeys(drifted) {
		s.find(FoundDrift, consumer, fmt.Sprintf("%s on another key than CURRENT, which is %s: %s", Counted(len(drifted[consumer]), "instance"), ref.KeyID, some(drifted[consumer])),
			"let them load their key again; a key that was put there by hand belongs into the store")
	}
	for _, consumer := range sortedKeys(silent) {
		s.find(FoundSilent, consumer, fmt.Sprintf("%s not state which key they use: %s", does(len(silent[consumer])), some(silent[consumer])),
			"see whether they run and are reached; those that are gone for good, take out of the inventory")
	}
}

func does(n int) string {
	if n == 1 {
		return "1 instance does"
	}
	return fmt.Sprintf("%d instances do", n)
}

// some names the first of many.
func some(names []string) string {
	const shown = 3
	if len(names) > shown {
		return strings.Join(names[:shown], ", ") + fmt.Sprintf(" and %d more", len(names)-shown)
	}
	return strings.Join(names, ", ")
}

// NotSwept is the finding of a credential that could not be looked at: its spec is refused, or the world did not
// answer.
func NotSwept(d Declared, owner string, refused bool) Finding {
	f := Finding{Kind: FoundNotLooked, Inventory: d.Inventory, Credential: d.Credential, Owner: owner, Message: "it could not be looked at: " + d.Problem,
		Do: "run keyturn doctor, and then: keyturn plan " + d.Credential}
	if refused {
		f.Kind, f.Message = FoundSpecRefused, "no worker takes its spec: "+d.Problem
		f.Do = "apply it again, signed by somebody who is trusted and within the bounds of the worker configuration: keyturn apply -f FILE --sign KEY"
	}
	f.ID = findingID(f.Kind, d.Inventory, d.Credential)
	return f
}

// stuckAstray is how long a rotation may take whose waits nobody knows, since its credential is not applied.
const stuckAstray = 60 * 24 * time.Hour

// Astray judges the latest rotation of a credential that no inventory has applied.
func Astray(credential, owner string, r Run, failedBefore bool, now time.Time) []Finding {
	f := Finding{Credential: credential, Owner: owner, About: "run"}
	_, failing := r.FailingStep()
	const unapplied = "; it is not applied, so that nothing else looks after it"
	see := "see it with: keyturn status " + credential
	again := see + "; then apply the inventory that has it: keyturn apply -f FILE; what it left, and what to do about that, says: keyturn sweep --now"
	switch {
	case r.Running && (r.TaskAttempts >= stuckTasks || !r.TaskSince.IsZero() && now.Sub(r.TaskSince) > stuckTask):
		f.Kind, f.Message, f.Do = FoundStuck, fmt.Sprintf("its rotation stands still: its next task waits since %s and was tried %s", r.TaskSince.UTC().Format(time.RFC3339), Counted(r.TaskAttempts, "time")), "run keyturn doctor: is there a worker of the current build? "+see
	case r.Running && failing && failedBefore:
		f.Kind, f.Message, f.Do = FoundStuck, fmt.Sprintf("step %s of its rotation is at attempt %d, and failed when two sweeps in a row looked; the last one failed: %s", r.Step, r.StepAttempts, r.StepFailure), "mend what the error names; "+see
	case r.Running && now.Sub(r.StartedAt) > stuckAstray:
		f.Kind, f.Message, f.Do = FoundStuck, "its rotation runs since "+r.StartedAt.UTC().Format(time.RFC3339), "see what it waits for, and who can unblock it: keyturn status "+credential
	case r.Status == RunFailed:
		f.Kind, f.Message, f.Do = FoundFailed, "its last rotation failed, "+r.ClosedAt.UTC().Format(time.RFC3339), again
	case r.Status == RunTerminated, r.Status == RunTimedOut, r.Status == RunCanceled:
		f.Kind, f.Message, f.Do = FoundTerminated, fmt.Sprintf("its last rotation %s in the middle, %s", r.Status.cutOff(), r.ClosedAt.UTC().Format(time.RFC3339)), again
	default:
		return nil
	}
	f.Message += unapplied
	f.ID = findingID(f.Kind, "", credential, r.ID)
	return []Finding{f}
}

// Unreadable is the finding of a Schedule in which there is no spec of its credential.
func Unreadable(inventory, credential, problem string) Finding {
	id := "keyturn/" + inventory + "/" + credential
	return Finding{
		ID: findingID(FoundSpecRefused, inventory, credential), Kind: FoundSpecRefused, Inventory: inventory, Credential: credential,
		Message: "nothing rotates it: " + problem,
		Do:      "if an inventory has it, apply that again, and it is written over: keyturn apply -f FILE --verify; else delete the Schedule: temporal schedule delete --schedule-id " + shellWord(id),
	}
}

// shellWord quotes a text that whoever may write to the namespace has chosen, for a command that people copy.
func shellWord(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// OfScan is the finding of a key that no credential has; ok is false for one that is looked after.
func OfScan(k ScannedKey) (f Finding, ok bool) {
	f = Finding{About: k.KeyID, Do: k.Advice, Message: fmt.Sprintf("key %s of %s at account %s (%s, created %s, last used %s) is of no credential",
		k.KeyID, k.Principal, k.Account, k.State, ago(k.CreatedAt), ago(k.LastUsedAt))}
	switch {
	case k.Credential != "":
		return f, false // its credential is swept itself
	case k.Custody == Unmanaged:
		f.Kind = FoundUnmanaged
	case k.Custody == Orphaned:
		f.Kind = FoundOrphaned
	default:
		return f, false
	}
	f.ID = findingID(f.Kind, k.Account, k.Principal, k.KeyID)
	return f, true
}

// SignerEnd is until when a key may sign.
type SignerEnd struct {
	// File of the allowed signers, and what it is for: specs of environments, or an approver group.
	File, For string
	Name, Key string
	End       time.Time
}

// Expiring finds the signers who may not sign for long any more, and those whose time is over.
func Expiring(ends []SignerEnd, now time.Time) []Finding {
	var list []Finding
	for _, e := range ends {
		if e.End.IsZero() || now.Before(e.End.Add(-soon)) {
			continue
		}
		list = append(list, Finding{
			ID: findingID(FoundExpiring, e.File, e.Name, e.Key), Kind: FoundExpiring, About: e.Name,
			Message: fmt.Sprintf("the key %s of %s, who signs %s, is valid until %s", e.Key, e.Name, e.For, e.End.UTC().Format(time.RFC3339)),
			Do:      "put the line of another key, or a later valid-before, into " + e.File + " on each worker's host; specs that this key signed must be applied again",
		})
	}
	return list
}
