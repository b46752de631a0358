package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// record is what is known of the rotations of a credential: newest last.
type record struct {
	Credential string     `json:"credential"`
	Rotations  []summary  `json:"rotations"`
	Events     []recorded `json:"events"`
	// Unread is what could not be read, and may have told more.
	Unread []string `json:"unread"`
}

// summary is what an auditor asks first of a rotation.
type summary struct {
	Rotation string    `json:"rotation"`
	Runs     []string  `json:"runs"`
	Begun    time.Time `json:"begun,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	// Outcome is that of the rotation, or how Temporal has a run that left none; empty when nobody knows.
	Outcome     string `json:"outcome,omitempty"`
	Message     string `json:"message,omitempty"`
	RequestedBy string `json:"requestedBy,omitempty"`
	Why         string `json:"why,omitempty"`
	// Ends is the one key that it was to end, when it was no rotation.
	Ends      string   `json:"ends,omitempty"`
	Incidents []string `json:"incidents,omitempty"`
	// Decisions are those of people, accepted or not.
	Decisions []decided `json:"decisions"`
	// Evidence is what the retiring key was revoked on, or is about to be.
	Evidence *stated `json:"evidence,omitempty"`
	// Keys are those that the rotation issued or ended.
	Keys []keyRecord `json:"keys"`
	// Debt is what the rotation still owed at its end.
	Debt []string `json:"debt"`
}

// decided is what a person decided.
type decided struct {
	At     time.Time `json:"at"`
	Action string    `json:"action"`
	Gate   string    `json:"gate,omitempty"`
	By     string    `json:"by"`
	// Signed: by a signature, as the run says, which whoever may write to the namespace may forge. Proved: the worker that ended a key says
	// that it verified it.
	Signed bool `json:"signed"`
	// Otherwise By is what somebody claims.
	Proved   bool     `json:"proved"`
	Groups   []string `json:"groups,omitempty"`
	Accepted bool     `json:"accepted"`
	Why      string   `json:"why,omitempty"`
	Verdict  string   `json:"verdict,omitempty"`
	Source   source   `json:"source"`
}

// stated is evidence: its digest, and what it said.
type stated struct {
	At     time.Time `json:"at,omitzero"`
	Digest string    `json:"digest"`
	Says   string    `json:"says,omitempty"`
	Source source    `json:"source,omitempty"`
}

// keyRecord is what became of a key.
type keyRecord struct {
	Key  string            `json:"key"`
	Role workflows.KeyRole `json:"role,omitempty"`
	// Issued and all of these are when that was; nil when it was not, or nobody knows. Enabled took Disabled back.
	Issued    *moment `json:"issued,omitempty"`
	Promoted  *moment `json:"promoted,omitempty"`
	Disabled  *moment `json:"disabled,omitempty"`
	Enabled   *moment `json:"enabled,omitempty"`
	Destroyed *moment `json:"destroyed,omitempty"`
	Refused   *moment `json:"refused,omitempty"`
	// Probe says how it was seen that the key is refused.
	Probe string `json:"probe,omitempty"`
	// Approved is on whose approvals the worker that ended the key says that it acted.
	Approved string `json:"approved,omitempty"`
}

// moment is when something was, and where that is known from.
type moment struct {
	At     time.Time `json:"at"`
	Source source    `json:"source"`
}

// skew is by how much the clocks of a worker and of Temporal may differ for one happening to be told by both.
const skew = time.Minute

// merge puts what an audit file has and what histories tell into one record: each happening once, as the file has it where it does.
func merge(file []audit.Event, runs []*pastRun) []recorded {
	events := make([]recorded, 0, len(file))
	known := map[string]bool{}
	seen := map[audit.Type][]audit.Event{}
	for _, e := range file {
		known[e.ID] = true
		seen[e.Type] = append(seen[e.Type], e)
		events = append(events, recorded{Event: e, Source: fromFile})
	}
	for _, run := range runs {
		for _, e := range run.Events {
			same := func(in audit.Event) bool {
				return in.Run == e.Run && about(in) == about(e.Event) && !in.Time.Before(e.since.Add(-skew)) && !in.Time.After(e.Time.Add(skew))
			}
			if known[e.ID] || !e.since.IsZero() && slices.ContainsFunc(seen[e.Type], same) {
				continue
			}
			known[e.ID] = true
			events = append(events, e)
		}
	}
	slices.SortStableFunc(events, func(a, b recorded) int { return a.Time.Compare(b.Time) })
	return events
}

// about is what an event is about, beside its type.
func about(e audit.Event) string {
	switch e.Type {
	case audit.DebtFound:
		return e.Detail["kind"] + " " + e.Detail["about"]
	case audit.WavePassed, audit.WaveFailed:
		return e.Detail["wave"]
	}
	return keyOf(e)
}

// keyOf is the ID of the key that an event is about; empty where it is about none, or about both.
func keyOf(e audit.Event) string {
	role := ""
	switch e.Type {
	case audit.ImportBegun, audit.KeyImported:
		role = audit.Imported
	case audit.KeyIssued, audit.KeyVerified, audit.KeyPromoted, audit.KeyDiscarded:
		role = audit.Incoming
	case audit.KeyDisabled, audit.KeyEnabled, audit.KeyMissed, audit.KeyDestroyed, audit.ProbeRefused, audit.ProbeAccepted, audit.LabelsRestored:
		role = audit.Retiring
	}
	return cmp.Or(e.Detail["key"], e.Keys[role].KeyID)
}

// summarize tells what is known of each rotation, newest last.
func summarize(events []recorded, runs []*pastRun) []summary {
	byRotation := map[string]*summary{}
	order := []*summary{}
	of := func(rotation string) *summary {
		s := byRotation[rotation]
		if s == nil {
			s = &summary{Rotation: rotation, Runs: []string{}, Decisions: []decided{}, Keys: []keyRecord{}, Debt: []string{}}
			byRotation[rotation], order = s, append(order, s)
		}
		return s
	}
	verdicts := map[string]policy.Verdict{}
	for _, run := range runs {
		of(run.Rotation).lived(run)
		for _, v := range run.Verdicts {
			if _, known := verdicts[v.ID]; !known && v.ID != "" {
				verdicts[v.ID] = v
			}
		}
	}
	told := map[string]bool{}
	for _, e := range events {
		if e.Rotation == "" || e.Type == audit.ValueRead { // a plan reads, too, and begins no rotation
			continue
		}
		of(e.Rotation).happened(e, verdicts[e.Detail["id"]])
		told[e.Detail["id"]] = true
	}
	for _, run := range runs { // decisions that no event tells of yet, or any more
		for _, v := range run.Verdicts {
			if v.ID != "" && !told[v.ID] {
				told[v.ID] = true
				of(run.Rotation).Decisions = append(of(run.Rotation).Decisions, decisionOf(v))
			}
		}
	}
	slices.SortStableFunc(order, func(a, b *summary) int { return a.Begun.Compare(b.Begun) })
	all := make([]summary, 0, len(order))
	for _, s := range order {
		slices.SortStableFunc(s.Decisions, func(a, b decided) int { return a.At.Compare(b.At) })
		s.proves()
		all = append(all, *s)
	}
	return all
}

// proves tells which approvals the worker says that it verified, which ended a key on them: in its own file, since a history may say anything.
func (s *summary) proves() {
	for i, d := range s.Decisions {
		s.Decisions[i].Proved = d.Signed && d.Accepted && d.Action == string(policy.Approve) && slices.ContainsFunc(s.Keys, func(k keyRecord) bool {
			ended := k.Destroyed
			if ended == nil {
				ended = k.Disabled
			}
			return ended != nil && ended.Source == fromFile && slices.Contains(strings.Split(k.Approved, ", "), d.By)
		})
	}
}

// lived adds a run; they come in their order.
func (s *summary) lived(run *pastRun) {
	s.Runs = append(s.Runs, run.Run)
	if s.Begun.IsZero() || run.Begun.Before(s.Begun) {
		s.Begun = run.Begun
	}
	s.RequestedBy, s.Why = cmp.Or(s.RequestedBy, run.RequestedBy), cmp.Or(s.Why, run.Why)
	s.Ends = cmp.Or(s.Ends, run.Ends)
	for _, id := range run.Incidents {
		if !slices.Contains(s.Incidents, id) {
			s.Incidents = append(s.Incidents, id)
		}
	}
	s.Outcome, s.Ended, s.Message = run.As, run.Ended, ""
	report := run.Report
	if report == nil {
		return
	}
	s.Outcome, s.Ended, s.Message = string(report.Outcome), report.EndedAt, report.Message
	if report.EvidenceDigest != "" {
		s.Evidence = &stated{Digest: report.EvidenceDigest, Source: fromHistory}
	}
	s.Debt = []string{}
	for _, d := range report.Debt {
		s.Debt = append(s.Debt, d.Kind+" "+d.About)
	}
	s.key(report.Retiring.KeyID).Role = workflows.RoleRetiring
	s.key(report.Incoming.KeyID).Role = workflows.RoleIncoming
}

// happened adds an event; they come in their order. The verdict is of a decision, where a history has one.
func (s *summary) happened(e recorded, v policy.Verdict) {
	if s.Begun.IsZero() || e.Time.Before(s.Begun) {
		s.Begun = e.Time
	}
	k := s.key(keyOf(e.Event))
	for role, ref := range e.Keys {
		if ref.KeyID != "" && ref.KeyID == k.Key {
			k.Role = workflows.KeyRole(role)
		}
	}
	at := &moment{At: e.Time, Source: e.Source}
	switch e.Type {
	case audit.RotationRequested:
		s.RequestedBy, s.Why = cmp.Or(s.RequestedBy, e.Detail["by"]), cmp.Or(s.Why, e.Detail["reason"])
		s.Ends = cmp.Or(s.Ends, e.Detail["retire"])
	case audit.EmergencyBegun:
		if id := e.Detail["incident"]; !slices.Contains(s.Incidents, id) {
			s.Incidents = append(s.Incidents, id)
		}
	case audit.DecisionAccepted, audit.DecisionRejected:
		d := decidedBy(e)
		d.Gate, d.Groups = cmp.Or(d.Gate, string(v.Gate)), v.Groups
		s.Decisions = append(s.Decisions, d)
	case audit.EvidenceComplete:
		s.gathered(stated{At: e.Time, Digest: cmp.Or(e.Detail["digest"], e.ID[strings.LastIndexByte(e.ID, '/')+1:]), Says: e.Detail["evidence"], Source: e.Source})
	case audit.KeyIssued:
		k.Issued = at
	case audit.KeyPromoted:
		k.Promoted = at
	case audit.KeyDisabled:
		k.Disabled, k.Enabled, k.Approved = at, nil, cmp.Or(e.Detail["approved"], k.Approved)
	case audit.KeyEnabled:
		k.Enabled = at
	case audit.KeyDestroyed, audit.KeyDiscarded:
		k.Destroyed, k.Approved = at, cmp.Or(e.Detail["approved"], k.Approved)
	case audit.ProbeRefused:
		k.Refused, k.Probe = at, e.Detail["probe"]
	case audit.DebtFound:
		if owed := e.Detail["kind"] + " " + e.Detail["about"]; !slices.Contains(s.Debt, owed) {
			s.Debt = append(s.Debt, owed)
		}
	case audit.RotationEnded:
		// What a worker found goes before what a history says; a run that goes on has no end, whatever one of before had.
		if found := e.Source == fromFile && e.Actor == "worker" && s.Outcome != "running" && s.Outcome != string(workflows.Refused); found || s.Outcome == "" {
			s.Outcome, s.Ended, s.Message = e.Detail["outcome"], e.Time, cmp.Or(s.Message, e.Detail["message"])
		}
	}
}

// gathered adds complete evidence: what counts is what the report names, or else the last before the retiring key began to end.
func (s *summary) gathered(found stated) {
	named := s.Evidence != nil && s.Evidence.At.IsZero() // by the report, and nothing told of it yet
	switch {
	case named && s.Evidence.Digest != found.Digest:
	case named, s.Evidence == nil, !s.dying():
		s.Evidence = &found
	}
}

// dying tells whether a key was disabled or destroyed: what is gathered from then on is not what that was done on.
func (s *summary) dying() bool {
	return slices.ContainsFunc(s.Keys, func(k keyRecord) bool {
		return k.Role == workflows.RoleRetiring && (k.Disabled != nil && k.Enabled == nil || k.Destroyed != nil)
	})
}

// key is the record of a key, to be added to; one of no key is not kept.
func (s *summary) key(id string) *keyRecord {
	if id == "" {
		return &keyRecord{}
	}
	i := slices.IndexFunc(s.Keys, func(k keyRecord) bool { return k.Key == id })
	if i < 0 {
		i, s.Keys = len(s.Keys), append(s.Keys, keyRecord{Key: id})
	}
	return &s.Keys[i]
}

// unproved is what keyturn says after the name of somebody who gave no proof.
const unproved = " (unverified)"

func decidedBy(e recorded) decided {
	by, claimed := strings.CutSuffix(e.Detail["by"], unproved)
	return decided{
		At: e.Time, Action: e.Detail["action"], Gate: e.Detail["gate"], By: by, Signed: by != "" && !claimed, Accepted: e.Type == audit.DecisionAccepted,
		Why: e.Detail["why"], Verdict: e.Detail["verdict"], Source: e.Source,
	}
}

func decisionOf(v policy.Verdict) decided {
	by, _ := strings.CutSuffix(v.Person(), unproved)
	return decided{
		At: v.At, Action: string(v.Action), Gate: string(v.Gate), By: by, Signed: v.Verified, Groups: v.Groups, Accepted: v.Accepted,
		Why: v.Why, Verdict: v.Message, Source: fromHistory,
	}
}

// gone names the rotations that the file tells of, and no history any more.
func gone(events []recorded, runs []*pastRun) []string {
	listed := map[string]bool{"": true}
	for _, run := range runs {
		listed[run.Rotation] = true
	}
	var rotations []string
	for _, e := range events {
		if !listed[e.Rotation] {
			listed[e.Rotation] = true
			rotations = append(rotations, e.Rotation)
		}
	}
	return rotations
}
