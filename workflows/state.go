package workflows

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// State is all that a run knows of its rotation. A run whose history is full hands it to the next one, which goes on from
// there: what must outlive a run is a field of it and nowhere else. What counts in one run alone, approvals most of all, is
// not. Nothing trusts it: each activity with an effect looks for itself.
type State struct {
	// At is the part of the rotation that is going on; the next run begins with it.
	At string `json:"at"`
	// Queue is where calls to the issuer go.
	Queue string      `json:"queue"`
	Plan  policy.Plan `json:"plan"`
	// Status has both keys, and how far each wave came.
	Status Status `json:"status"`
	Report Report `json:"report"`
	// Verdicts are the decisions of people, in their order: a repeated one gets its first verdict.
	Verdicts []policy.Verdict `json:"verdicts,omitempty"`
	Outbox   Outbox           `json:"events,omitzero"`
	// Unheard is what people could not be told of yet.
	Unheard []activities.Message `json:"unheard,omitempty"`
	// Numbered counts events and signals, so that no two events have one ID.
	Numbered int `json:"numbered"`
	// Turn is what ended the routine way, or does at the next safe point.
	Turn *Turn `json:"turn,omitempty"`

	// Ordinal is that of the rotation's mint, recorded before anything is changed for it; zero before that.
	Ordinal int `json:"ordinal,omitempty"`
	// Soak is that of the wave that has the incoming key and has not passed yet.
	Soak *Soak `json:"soak,omitempty"`
	// Promoted: CURRENT may be on the incoming key. Moving it was asked for, and not refused.
	Promoted     bool      `json:"promoted,omitempty"`
	IncomingEnds time.Time `json:"incomingEnds,omitzero"` // by itself; zero for never
	// RotateBy is until when the incoming key is to be rotated itself; zero where the worker did not tell.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Signer signed the spec; zero when nobody did.
	Signer signed.Signer `json:"signer,omitzero"`
	// Bounded: before it issues, a rotation that a Schedule began waits for one of the slots of those that are not promoted yet.
	Bounded     bool      `json:"bounded,omitempty"`
	OverlapEnds time.Time `json:"overlapEnds,omitzero"`
	// Gathering is how far that of the evidence came; nil when none is gathered.
	Gathering *Gathering `json:"gathering,omitempty"`
	// Revokes counts how often what the revoke gate allows was begun.
	Revokes int `json:"revokes,omitempty"`
	// Disabled: the retiring key may be disabled. That was asked for, and its enabling has not ended well since.
	Disabled bool `json:"disabled,omitempty"`
	// FoundDisabled: it was so before a rotation that settles began.
	FoundDisabled bool `json:"foundDisabled,omitempty"`

	// Breach is what the watch found, and a pause has yet to answer. Paused is when that pause began.
	Breach *policy.Decision `json:"breach,omitempty"`
	Paused time.Time        `json:"paused,omitzero"`
	// RetiringGone: the issuer accepts the retiring key no more, for good, which people were told.
	RetiringGone bool `json:"retiringGone,omitempty"`
}

// Soak is how far the watching of a wave came.
type Soak struct {
	Since time.Time `json:"since"`
	// Signals are what its requests are counted from; none where no error budget guards that.
	Signals []policy.Readings `json:"signals,omitempty"`
	// Held is since when it is held for want of requests; zero when it is not.
	Held time.Time `json:"held,omitzero"`
}

// Gathering is how far the gathering of evidence came.
type Gathering struct {
	// Lacked is what it lacked when that was recorded last, and Changes how often that was something else.
	Lacked  string `json:"lacked,omitempty"`
	Changes int    `json:"changes,omitempty"`
	// Late is when people are reminded of what it lacks; zero once they were.
	Late time.Time `json:"late,omitzero"`
}

// UnmarshalJSON also reads what a run handed over before it recorded the ordinal, and kept verdicts beside its report.
func (s *State) UnmarshalJSON(text []byte) error {
	type plain State
	if err := json.Unmarshal(text, (*plain)(s)); err != nil {
		return err
	}
	var earlier struct {
		Changed bool `json:"changed"`
	}
	if err := json.Unmarshal(text, &earlier); err != nil {
		return err
	}
	s.Verdicts, s.Report.Verdicts = append(s.Verdicts, s.Report.Verdicts...), nil
	switch {
	case !earlier.Changed:
	case s.At == "": // it settled
		s.Revokes = 1
	default:
		s.Ordinal = 1
	}
	return nil
}

// changed tells whether anything was changed, or may have been.
func (s *State) changed() bool { return s.Ordinal > 0 || s.Revokes > 0 }

// delivered tells whether a consumer may have the incoming key, in this rotation or the one that it goes on with.
func (s *State) delivered() bool {
	if u := s.Plan.Resume; u != nil && (u.Delivered || u.IsCurrent()) {
		return true
	}
	return slices.ContainsFunc(s.Status.Waves, func(w WaveStatus) bool { return w.State != waveWaiting })
}

// rollingBack tells whether the rollback has begun, which nothing but an incident ends.
func (s *State) rollingBack() bool { return s.Status.Phase == PhaseRollback }

// over tells whether the report is made.
func (s *State) over() bool { return s.Status.Report != nil }

// noWayBack is why a rollback is impossible at that time; empty when it is possible.
func (s *State) noWayBack(now time.Time) string {
	if s.Status.Phase == PhaseRevoke || s.latest(RoleRetiring) == KeyDestroyed {
		return "the retiring key is being destroyed"
	}
	if s.delivered() || s.Promoted && s.Plan.Retiring != nil {
		if why := s.onlyForward(); why != "" {
			return why
		}
	}
	if ends := s.Plan.WayBackEnds; !ends.IsZero() && !now.Before(ends) {
		return "the retiring key ends by itself " + s.Plan.RetiringExpires.UTC().Format(time.RFC3339)
	}
	return ""
}

// onlyForward is why nobody who has the incoming key can be brought back; empty when the retiring one can be delivered again.
func (s *State) onlyForward() string {
	switch {
	case s.Plan.Retiring == nil:
		return "there is no earlier key to go back to"
	case !s.Plan.CanRollBack:
		return cmp.Or(s.Plan.NoWayBack, "the value of the retiring key is in no store") // empty would say that there is one
	}
	return ""
}

// latest is what became last of one of the two keys; empty when nothing did.
func (s *State) latest(k KeyRole) KeyState {
	for _, m := range slices.Backward(s.Status.Keys) {
		if m.Key == k {
			return m.State
		}
	}
	return ""
}

// deliveredInstances are those that may hold the incoming key: they were delivered to, or read CURRENT by
// themselves when it may have moved. Which a rotation that did not end came to is not known.
func (s *State) deliveredInstances() []string {
	var names []string
	for i, w := range s.Plan.Waves {
		if s.Plan.Resume != nil || s.Status.Waves[i].State != waveWaiting || w.ByPromotion && s.Promoted {
			names = append(names, w.Instances...)
		}
	}
	return names
}

// open lists what a superseded run leaves.
func (s *State) open() []string {
	var open []string
	switch k := s.Status.Incoming; {
	case s.Ordinal == 0: // it minted none
	case k.IsZero():
		open = append(open, "an incoming key may have been minted: the store's metadata has the intent")
	default:
		open = append(open, fmt.Sprintf("incoming key %s is issued, in store version %s", k.KeyID, k.StoreVersion))
	}
	for _, w := range s.Status.Waves {
		if w.State != waveWaiting {
			open = append(open, fmt.Sprintf("wave %s is %s", w.Name, w.State))
		}
	}
	if s.Disabled {
		open = append(open, fmt.Sprintf("retiring key %s may be disabled", s.Status.Retiring.KeyID))
	}
	return open
}

// verdict is what a decision was answered, if that is remembered.
func (s *State) verdict(id string) (policy.Verdict, bool) {
	i := slices.IndexFunc(s.Verdicts, func(v policy.Verdict) bool { return v.ID == id })
	if i < 0 {
		return policy.Verdict{}, false
	}
	return s.Verdicts[i], true
}
