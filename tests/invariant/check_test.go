package invariant_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/workflows"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }

func event(minute int, kind invariant.Kind, keyID string) invariant.Event {
	return invariant.Event{At: at(minute), Kind: kind, Key: keyID}
}

func by(instance string, e invariant.Event) invariant.Event {
	e.Instance = instance
	return e
}

func entry(minute int, t audit.Type, detail map[string]string) audit.Event {
	return audit.Event{
		ID: string(t) + at(minute).String(), Time: at(minute), Type: t, Rotation: "r1", Detail: detail,
		Keys: map[string]key.Ref{audit.Retiring: {KeyID: "old"}, audit.Incoming: {KeyID: "new"}},
	}
}

func of(rotation string, e audit.Event) audit.Event {
	e.Rotation = rotation
	return e
}

func decided(id string, action policy.Action) audit.Event {
	return entry(45, audit.DecisionAccepted, map[string]string{"id": id, "action": string(action)})
}

func pruned(version string) audit.Event {
	e := entry(68, audit.VersionPruned, nil)
	e.ID = "r1/version.pruned/" + version
	return e
}

// rotated is what is seen of a rotation in which all went well.
func rotated() invariant.Seen {
	return invariant.Seen{
		Before: invariant.Before{
			Slots:   3,
			Current: "old",
			Version: "v1",
			Keys: []invariant.Key{
				{ID: "old", State: key.Active, Standing: invariant.Ours}, {ID: "theirs", State: key.Active, Standing: invariant.Stranger},
			},
			Instances: []invariant.Instance{{Name: "canary", Holds: "old"}, {Name: "web", Wave: 1, Holds: "old"}},
		},
		Policy: invariant.Policy{
			Quiet: 10 * time.Minute, Overlap: 30 * time.Minute, WaveSoak: 5 * time.Minute, DisableSoak: 20 * time.Minute,
			CanDisable: true, Approvals: 1, Noticed: 6 * time.Minute, Slack: time.Second,
		},
		Events: []invariant.Event{
			event(1, invariant.Issued, "new"),
			{At: at(1), Kind: invariant.Staged, Key: "new", Version: "v2"},
			by("web", event(1, invariant.Used, "old")),
			by("canary", event(2, invariant.Delivered, "new")),
			by("canary", event(2, invariant.Using, "new")),
			by("web", event(8, invariant.Delivered, "new")),
			by("web", event(8, invariant.Using, "new")),
			by("web", event(9, invariant.Used, "new")),
			{At: at(14), Kind: invariant.Promoted, Key: "new", Version: "v2", From: "v1"},
			event(46, invariant.Disabled, "old"),
			event(67, invariant.Destroyed, "old"),
			{At: at(68), Kind: invariant.Pruned, Version: "v1"},
		},
		End: invariant.End{
			Keys:     map[string]key.State{"new": key.Active, "theirs": key.Active},
			Versions: []invariant.Version{{ID: "v2", Labels: []key.Label{key.Current}, Key: "new"}},
			Metadata: &key.Metadata{
				Inventory: "payments", Environment: "test",
				Keys:         []key.Owned{{Ref: key.Ref{KeyID: "new"}, VerifiedAt: at(3), PromotedAt: at(20), KeptAt: at(60)}},
				LastRotation: &key.LastRotation{ID: "r1", Outcome: "completed"},
			},
			Holds:       map[string]string{"canary": "new", "web": "new"},
			DeadRefused: map[string]bool{"old": true},
		},
		Report: &workflows.Report{
			Rotation: "r1", Outcome: workflows.Completed, Message: "done", Retiring: key.Ref{KeyID: "old"}, Incoming: key.Ref{KeyID: "new"},
			Verdicts: []policy.Verdict{{ID: "signal/1", Action: policy.Approve, Gate: inventory.GateRevoke, By: "ann", Accepted: true, At: at(45)}},
		},
		Trail: audit.Trail{Events: []audit.Event{
			entry(0, audit.RotationStarted, nil), entry(1, audit.MintIntended, nil), entry(1, audit.KeyIssued, nil), entry(1, audit.KeyVerified, nil),
			entry(2, audit.KeyDelivered, map[string]string{"key": "new"}), entry(8, audit.KeyDelivered, map[string]string{"key": "new"}),
			entry(14, audit.KeyPromoted, nil), entry(14, audit.OverlapBegun, nil), entry(44, audit.EvidenceComplete, nil),
			entry(44, audit.GateOpened, map[string]string{"gate": "revoke"}), decided("signal/1", policy.Approve), entry(45, audit.GateClosed, map[string]string{"gate": "revoke"}),
			entry(46, audit.KeyDisabled, nil), entry(67, audit.KeyDestroyed, nil), entry(67, audit.ProbeRefused, nil), pruned("v1"),
			entry(69, audit.RotationEnded, map[string]string{"outcome": "completed"}),
		}},
	}
}

// back is what is seen of one that was turned back in the overlap.
func back() invariant.Seen {
	s := rotated()
	s.Events = append(s.Events[:9],
		invariant.Event{At: at(20), Kind: invariant.Promoted, Key: "old", Version: "v1", From: "v2"},
		by("canary", event(21, invariant.Delivered, "old")), by("canary", event(21, invariant.Using, "old")),
		by("web", event(21, invariant.Delivered, "old")), by("web", event(21, invariant.Using, "old")),
		event(40, invariant.Destroyed, "new"), invariant.Event{At: at(40), Kind: invariant.Pruned, Version: "v2"},
	)
	s.End.Keys = map[string]key.State{"old": key.Active, "theirs": key.Active}
	s.End.Versions = []invariant.Version{{ID: "v1", Labels: []key.Label{key.Current}, Key: "old"}}
	s.End.Metadata = &key.Metadata{LastRotation: &key.LastRotation{ID: "r1", Outcome: "rolled-back"}}
	s.End.Holds = map[string]string{"canary": "old", "web": "old"}
	s.End.DeadRefused = map[string]bool{"new": true}
	s.Report.Outcome, s.Report.Verdicts = workflows.RolledBack, nil
	s.Trail.Events = append(s.Trail.Events[:8], entry(19, audit.RollbackBegun, nil), entry(20, audit.LabelsRestored, nil),
		entry(21, audit.KeyDelivered, map[string]string{"key": "old"}), entry(40, audit.KeyDiscarded, map[string]string{"key": "new"}),
		entry(41, audit.RotationEnded, map[string]string{"outcome": "rolled-back"}))
	return s
}

func TestWhatIsGoodHasNoViolations(t *testing.T) {
	t.Parallel()
	assert.Empty(t, invariant.Check(rotated()))
	assert.Empty(t, invariant.Check(back()))

	overtaken := back()
	overtaken.Events = slices.Delete(overtaken.Events, 8, 10) // it found CURRENT moved, and did not promote
	overtaken.Trail.Events = slices.DeleteFunc(overtaken.Trail.Events, func(e audit.Event) bool {
		return e.Type == audit.LabelsRestored || e.Type == audit.KeyPromoted || e.Type == audit.OverlapBegun
	})
	overtaken.End.Versions = []invariant.Version{
		{ID: "v1", Labels: []key.Label{key.Previous}, Key: "old"},
		{ID: "v3", Labels: []key.Label{key.Current}, Standing: invariant.Stranger},
	}
	assert.Empty(t, invariant.Check(overtaken), "a version of somebody else is left alone")

	waiting := rotated()
	waiting.Events, waiting.Report = waiting.Events[:9], nil
	waiting.Status = &workflows.Status{WaitsFor: "canary to attest", UnblockedBy: "who runs it"}
	waiting.Trail.Events = waiting.Trail.Events[:7]
	waiting.End.DeadRefused = map[string]bool{}
	assert.Empty(t, invariant.Check(waiting))
}

func TestEachRuleFindsWhatBreaksIt(t *testing.T) {
	t.Parallel()
	insert := func(s *invariant.Seen, n int, e invariant.Event) { s.Events = slices.Insert(s.Events, n, e) }
	drop := func(s *invariant.Seen, t audit.Type) {
		s.Trail.Events = slices.DeleteFunc(s.Trail.Events, func(e audit.Event) bool { return e.Type == t })
	}
	late := func(s *invariant.Seen, t audit.Type) {
		n := slices.IndexFunc(s.Trail.Events, func(e audit.Event) bool { return e.Type == t })
		e := s.Trail.Events[n]
		s.Trail.Events = slices.Insert(slices.Delete(s.Trail.Events, n, n+1), len(s.Trail.Events)-2, e)
	}
	decide := func(s *invariant.Seen, action policy.Action, gate inventory.Gate, minute int) {
		s.Report.Verdicts = append(s.Report.Verdicts, policy.Verdict{ID: "signal/2", Action: action, Gate: gate, By: "bob", Accepted: true, At: at(minute)})
		s.Trail.Events = slices.Insert(s.Trail.Events, len(s.Trail.Events)-1, decided("signal/2", action))
	}
	cases := map[string]struct {
		seen     func() invariant.Seen
		broken   func(*invariant.Seen)
		violates invariant.Invariant
		rule     string
	}{
		"a request of an instance is refused": {rotated, func(s *invariant.Seen) { insert(s, 9, by("web", event(15, invariant.Refused, "new"))) }, invariant.I1, "no request is refused"},
		"a user that nobody declared is refused for long": {rotated, func(s *invariant.Seen) {
			for minute := 66; minute > 46; minute-- {
				insert(s, 10, by("cron", event(minute, invariant.Refused, "old")))
			}
		}, invariant.I1, "a user that nobody declared is refused until it is noticed"},
		"a key that was missed is destroyed": {rotated, func(s *invariant.Seen) {
			insert(s, 10, by("cron", event(50, invariant.Refused, "old")))
		}, invariant.I1, "a user that nobody declared is refused until it is noticed"},
		"an instance gets a key that is disabled": {rotated, func(s *invariant.Seen) { insert(s, 5, event(3, invariant.Disabled, "new")) }, invariant.I1, "nobody is sent to a key that is refused"},
		"a key becomes CURRENT that is destroyed": {rotated, func(s *invariant.Seen) { insert(s, 8, event(9, invariant.Destroyed, "new")) }, invariant.I1, "nobody is sent to a key that is refused"},
		"the retiring key goes, and somebody has disabled the other one": {rotated, func(s *invariant.Seen) {
			s.Others = true
			insert(s, 9, theirs(event(15, invariant.Disabled, "new")))
		}, invariant.I1, "no key goes unless another one works"},
		"CURRENT moves before the first wave": {rotated, func(s *invariant.Seen) {
			promoted := s.Events[8]
			promoted.At = at(1)
			s.Events = slices.Insert(slices.Delete(s.Events, 8, 9), 2, promoted)
		}, invariant.I1, "CURRENT moves after the deliveries"},
		"an instance uses the key that is disabled":   {rotated, func(s *invariant.Seen) { insert(s, 9, by("web", event(15, invariant.Using, "old"))) }, invariant.I1, "no key in use is taken away"},
		"an instance uses the key that is discarded":  {back, func(s *invariant.Seen) { insert(s, 14, by("web", event(22, invariant.Using, "new"))) }, invariant.I1, "no key in use is taken away"},
		"the key in CURRENT is destroyed":             {rotated, func(s *invariant.Seen) { insert(s, 9, event(15, invariant.Destroyed, "new")) }, invariant.I1, "no key is taken away while it is CURRENT"},
		"the second wave comes first":                 {rotated, func(s *invariant.Seen) { s.Events[3].Instance, s.Events[4].Instance = "web", "web" }, invariant.I1, "the canary goes first"},
		"the second wave does not wait for the soak":  {rotated, func(s *invariant.Seen) { s.Events[5].At, s.Events[6].At = at(3), at(3) }, invariant.I1, "each wave soaks"},
		"a key more than slots":                       {rotated, func(s *invariant.Seen) { insert(s, 1, event(1, invariant.Issued, "more")) }, invariant.I2, "never more keys than slots"},
		"a stranger's key is disabled":                {rotated, func(s *invariant.Seen) { insert(s, 9, event(15, invariant.Disabled, "theirs")) }, invariant.I2, "strangers are untouched"},
		"a stranger's key is gone":                    {rotated, func(s *invariant.Seen) { delete(s.End.Keys, "theirs") }, invariant.I2, "strangers live on"},
		"CURRENT of somebody else is overwritten":     {rotated, func(s *invariant.Seen) { s.Events[8].From = "v9" }, invariant.I2, "nobody else's CURRENT is overwritten"},
		"an instance is on neither key":               {rotated, func(s *invariant.Seen) { insert(s, 9, by("web", event(15, invariant.Using, "other"))) }, invariant.I3, "every instance is on CURRENT when the retiring key goes"},
		"the retiring key was used just before":       {rotated, func(s *invariant.Seen) { insert(s, 9, event(40, invariant.Used, "old")) }, invariant.I3, "the retiring key was quiet"},
		"the overlap is cut short":                    {rotated, func(s *invariant.Seen) { s.Events[8].At = at(17) }, invariant.I3, "the overlap has passed"},
		"the soak is cut short":                       {rotated, func(s *invariant.Seen) { s.Events[10].At = at(60) }, invariant.I3, "a key is disabled before it is destroyed, for the soak"},
		"destroyed without having been disabled":      {rotated, func(s *invariant.Seen) { s.Events = slices.Delete(s.Events, 9, 10) }, invariant.I3, "a key is disabled before it is destroyed, for the soak"},
		"nobody approved":                             {rotated, func(s *invariant.Seen) { s.Report.Verdicts = nil }, invariant.I9, "each revoking has its own approvals"},
		"the approval is for the gate before":         {rotated, func(s *invariant.Seen) { s.Report.Verdicts[0].At = at(40) }, invariant.I9, "each revoking has its own approvals"},
		"one approval is used for a second disabling": {rotated, func(s *invariant.Seen) { insert(s, 9, event(45, invariant.Disabled, "old")) }, invariant.I9, "each revoking has its own approvals"},
		"one person is counted as two": {rotated, func(s *invariant.Seen) {
			s.Policy.Approvals = 2
			s.Report.Verdicts = append(s.Report.Verdicts, s.Report.Verdicts[0])
		}, invariant.I9, "each revoking has its own approvals"},
		"the gate is rejected and the key revoked": {rotated, func(s *invariant.Seen) { decide(s, policy.Reject, inventory.GateRevoke, 45) }, invariant.I9, "a rejected gate stays closed"},
		"the gate is rejected and the key disabled": {rotated, func(s *invariant.Seen) {
			decide(s, policy.Reject, inventory.GateRevoke, 45)
			s.Report.Outcome = workflows.RolledBack
			s.Events = slices.Delete(s.Events, 10, 12)
		}, invariant.I9, "a rejected gate stays closed"},
		"the sign-off is rejected and a key minted": {back, func(s *invariant.Seen) { decide(s, policy.Reject, inventory.GateSignoff, 0) }, invariant.I9, "a rejected gate stays closed"},
		"a rollback is accepted and forgotten":      {rotated, func(s *invariant.Seen) { decide(s, policy.Rollback, "", 20) }, invariant.I4, "a rollback that was accepted is carried out"},
		"a rollback is accepted and the key destroyed": {back, func(s *invariant.Seen) {
			decide(s, policy.Rollback, "", 19)
			insert(s, len(s.Events), event(41, invariant.Destroyed, "old"))
		}, invariant.I4, "a rollback that was accepted is carried out"},
		"a run fails though trouble passes":                {back, func(s *invariant.Seen) { s.Report.Outcome = workflows.Failed }, invariant.I4, "a rollback ends well"},
		"after a rollback the retiring key is disabled":    {back, func(s *invariant.Seen) { s.End.Keys["old"] = key.Disabled }, invariant.I4, "after a rollback the retiring key is active"},
		"after a rollback CURRENT is elsewhere":            {back, func(s *invariant.Seen) { s.End.Versions[0].Key = "new" }, invariant.I4, "after a rollback the retiring key is CURRENT"},
		"after a rollback an instance is on the other key": {back, func(s *invariant.Seen) { s.End.Holds["web"] = "new" }, invariant.I4, "after a rollback everybody holds the retiring key"},
		"a dead key is accepted":                           {rotated, func(s *invariant.Seen) { s.End.DeadRefused["old"] = false }, invariant.I5, "a destroyed key is refused"},
		"a dead key was not tried":                         {rotated, func(s *invariant.Seen) { s.End.DeadRefused = map[string]bool{} }, invariant.I5, "a destroyed key is refused"},
		"the retiring key lives on":                        {rotated, func(s *invariant.Seen) { s.End.Keys["old"] = key.Disabled }, invariant.I5, "after a rotation the retiring key is dead, or debt"},
		"two rotations act at once":                        {rotated, func(s *invariant.Seen) { s.Trail.Events[5].Rotation = "r2" }, invariant.I6, "one rotation at a time"},
		"two rotations mint at once":                       {rotated, func(s *invariant.Seen) { insert(s, 1, event(1, invariant.Issued, "more")) }, invariant.I6, "one key is incoming at a time"},
		"an issued key is forgotten": {rotated, func(s *invariant.Seen) {
			s.End.Keys["lost"] = key.Active
			insert(s, 0, event(1, invariant.Issued, "lost"))
		}, invariant.I7, "every key is accounted for"},
		"PENDING is left": {rotated, func(s *invariant.Seen) {
			s.End.Versions[0].Labels = append(s.End.Versions[0].Labels, key.Pending)
		}, invariant.I7, "labels are right"},
		"the version of the dead key is left": {rotated, func(s *invariant.Seen) {
			s.End.Versions = append(s.End.Versions, invariant.Version{ID: "v1", Key: "old"})
		}, invariant.I7, "labels are right"},
		"an instance did not follow":          {rotated, func(s *invariant.Seen) { s.End.Holds["web"] = "old" }, invariant.I7, "after a rotation everybody holds CURRENT"},
		"a dead key stays in the metadata":    {rotated, func(s *invariant.Seen) { deadKept(s) }, invariant.I7, "the metadata is clean"},
		"the mint intent is left":             {rotated, func(s *invariant.Seen) { s.End.Metadata.Intents = []key.Intent{{Rotation: "r1"}} }, invariant.I7, "the metadata is clean"},
		"nobody owns the credential":          {rotated, func(s *invariant.Seen) { s.End.Metadata.Environment, s.End.Metadata.Inventory = "", "" }, invariant.I7, "the metadata is clean"},
		"the kept key is not marked":          {rotated, func(s *invariant.Seen) { s.End.Metadata.Keys[0].KeptAt = time.Time{} }, invariant.I7, "the metadata is clean"},
		"nobody saw the new key work":         {rotated, func(s *invariant.Seen) { s.End.Metadata.Keys[0].VerifiedAt = time.Time{} }, invariant.I7, "the metadata is clean"},
		"metadata and report end differently": {rotated, func(s *invariant.Seen) { s.End.Metadata.LastRotation.Outcome = "rolled-back" }, invariant.I7, "the metadata is clean"},
		"a line of the record is damaged":     {rotated, func(s *invariant.Seen) { s.Trail.Damaged = []audit.Damage{{Line: 3, What: "is cut off"}} }, invariant.I10, "the record is whole"},
		"a disabling is not in the record":    {rotated, func(s *invariant.Seen) { drop(s, audit.KeyDisabled) }, invariant.I10, "each effect is recorded"},
		"a destroying is not in the record":   {rotated, func(s *invariant.Seen) { drop(s, audit.KeyDestroyed); drop(s, audit.ProbeRefused) }, invariant.I10, "each effect is recorded"},
		"a discarding is not in the record":   {back, func(s *invariant.Seen) { drop(s, audit.KeyDiscarded) }, invariant.I10, "each effect is recorded"},
		"a pruning is not in the record":      {rotated, func(s *invariant.Seen) { drop(s, audit.VersionPruned) }, invariant.I10, "each effect is recorded"},
		"another pruning is in the record": {rotated, func(s *invariant.Seen) {
			drop(s, audit.VersionPruned)
			s.Trail.Events = slices.Insert(s.Trail.Events, len(s.Trail.Events)-1, pruned("v11"))
		}, invariant.I10, "each effect is recorded"},
		"an approval is not in the record": {rotated, func(s *invariant.Seen) { drop(s, audit.DecisionAccepted) }, invariant.I10, "each decision is recorded"},
		"two ends are in the record": {rotated, func(s *invariant.Seen) {
			s.Trail.Events = append(s.Trail.Events, of("r2", entry(70, audit.RotationEnded, map[string]string{"outcome": "completed"})))
		}, invariant.I10, "each effect is recorded"},
		"the end is not in the record":        {rotated, func(s *invariant.Seen) { drop(s, audit.RotationEnded) }, invariant.I10, "each effect is recorded"},
		"delivered before issued":             {rotated, func(s *invariant.Seen) { late(s, audit.KeyIssued) }, invariant.I10, "the record is in causal order"},
		"issued before intended":              {rotated, func(s *invariant.Seen) { late(s, audit.MintIntended) }, invariant.I10, "the record is in causal order"},
		"disabled before the gate was closed": {rotated, func(s *invariant.Seen) { late(s, audit.GateClosed) }, invariant.I10, "the record is in causal order"},
		"the run neither ended nor waits":     {rotated, func(s *invariant.Seen) { s.Report, s.Status = nil, &workflows.Status{} }, invariant.I11, "the run ended, or waits for somebody"},
		"nobody looked at the keys":           {rotated, func(s *invariant.Seen) { s.End.Keys = nil }, invariant.Unseen, string(invariant.Keys)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := c.seen()
			require.Empty(t, invariant.Check(s))
			c.broken(&s)
			found := invariant.Check(s)
			assert.True(t, slices.ContainsFunc(found, func(v invariant.Violation) bool {
				return v.Invariant == c.violates && v.Rule == c.rule
			}), "%v", found)
		})
	}
}

func theirs(e invariant.Event) invariant.Event {
	e.Theirs = true
	return e
}

func TestWhatOthersDoIsNotKeyturns(t *testing.T) {
	t.Parallel()
	s := rotated()
	s.Others = true
	s.Events = slices.Insert(s.Events, 9, theirs(event(15, invariant.Disabled, "old")), by("web", event(16, invariant.Refused, "old")), theirs(event(17, invariant.Enabled, "old")),
		theirs(event(18, invariant.Disabled, "theirs")))
	assert.Empty(t, invariant.Check(s))
}

// deadKept leaves the dead key in the metadata.
func deadKept(s *invariant.Seen) {
	s.End.Metadata.Keys = append(s.End.Metadata.Keys, key.Owned{Ref: key.Ref{KeyID: "old"}})
}

func TestADeadKeyWhoseCopiesAreDebtStaysInTheMetadata(t *testing.T) {
	t.Parallel()
	s := rotated()
	deadKept(&s)
	s.Report.Outcome, s.End.Metadata.LastRotation.Outcome = workflows.CompletedWithDebt, string(workflows.CompletedWithDebt)
	s.Trail.Events[len(s.Trail.Events)-1].Detail = map[string]string{"outcome": string(workflows.CompletedWithDebt)}
	debt := []key.Debt{{Kind: "copies-left", About: "old", Since: at(69)}}
	s.Report.Debt, s.End.Metadata.Debt = debt, debt
	assert.Empty(t, invariant.Check(s))
}

func TestAnEmergencyThatWasTerminatedAfterItsRecordIsSeenThroughByAnother(t *testing.T) {
	t.Parallel()
	s := ended()
	s.Trail.Events = append(s.Trail.Events, entry(7, audit.RotationTerminated, nil), of("r2", entry(8, audit.RotationEnded, map[string]string{"outcome": "completed"})))
	assert.Empty(t, invariant.Check(s))
}

func TestWhatIsUntoldIsNotJudged(t *testing.T) {
	t.Parallel()
	s := rotated()
	s.Report.Verdicts = nil
	s.Untold = []invariant.Part{invariant.Decisions}
	assert.Empty(t, invariant.Check(s))
	assert.Equal(t, []string{
		"I9 each revoking has its own approvals", "I9 a rejected gate stays closed", "I4 a rollback that was accepted is carried out", "I10 each decision is recorded",
	}, invariant.NotJudged(invariant.Decisions))
	assert.Empty(t, invariant.NotJudged())
}

// ended is what is seen of an emergency: CURRENT moves first, everybody gets the key at once, and nobody waits for the exposed one to be quiet.
func ended() invariant.Seen {
	s := rotated()
	s.Policy = invariant.Policy{Emergency: true, Slack: time.Second}
	s.Events = []invariant.Event{
		event(1, invariant.Issued, "new"), {At: at(1), Kind: invariant.Staged, Key: "new", Version: "v2"},
		{At: at(2), Kind: invariant.Promoted, Key: "new", Version: "v2", From: "v1"},
		by("web", event(2, invariant.Used, "old")),
		by("web", event(3, invariant.Delivered, "new")), by("canary", event(3, invariant.Delivered, "new")),
		by("web", event(3, invariant.Using, "new")), by("canary", event(3, invariant.Using, "new")),
		event(4, invariant.Destroyed, "old"), {At: at(5), Kind: invariant.Pruned, Version: "v1"},
	}
	s.Report.Verdicts = nil
	s.Trail.Events = []audit.Event{
		entry(1, audit.EmergencyBegun, nil), entry(1, audit.RotationStarted, nil), entry(1, audit.MintIntended, nil), entry(1, audit.KeyIssued, nil),
		entry(1, audit.KeyVerified, nil), entry(2, audit.KeyPromoted, nil), entry(3, audit.KeyDelivered, map[string]string{"key": "new"}),
		entry(4, audit.KeyDestroyed, nil), entry(4, audit.ProbeRefused, nil), pruned("v1"), entry(6, audit.RotationEnded, map[string]string{"outcome": "completed"}),
	}
	return s
}

func TestAnEmergencyWaivesWhatItDoesNotWaitForAndNothingElse(t *testing.T) {
	t.Parallel()
	assert.Empty(t, invariant.Check(ended()))
	routine := ended()
	routine.Policy = rotated().Policy
	assert.NotEmpty(t, invariant.Check(routine), "a routine rotation may not go so")
	for what, change := range map[string]func(s *invariant.Seen){
		"a key goes that somebody uses": func(s *invariant.Seen) { s.Events = slices.Delete(s.Events, 6, 7) },
		"it acts before it has begun":   func(s *invariant.Seen) { s.Trail.Events = s.Trail.Events[1:] },
		"nothing says that a key ended": func(s *invariant.Seen) { s.Trail.Events = slices.Delete(s.Trail.Events, 7, 8) },
		"the exposed key lives":         func(s *invariant.Seen) { s.Events = slices.Delete(s.Events, 8, 9); s.End.Keys["old"] = key.Active },
		"the exposed key is accepted":   func(s *invariant.Seen) { s.End.DeadRefused["old"] = false },
		"a second key is left": func(s *invariant.Seen) {
			s.Events, s.End.Keys["third"] = slices.Insert(s.Events, 2, event(1, invariant.Issued, "third")), key.Active
		},
	} {
		s := ended()
		change(&s)
		assert.NotEmpty(t, invariant.Check(s), what)
	}
}
