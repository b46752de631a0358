package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
)

// TakeoverInput names the rotation that an incident has asked to become the emergency of a credential.
type TakeoverInput struct {
	// DeclarationInput has the declaration where a run is to be ended: it is long, and to ask needs none.
	DeclarationInput
	Incident string `json:"incident"`
	// End has a run ended that does not answer, Late also one that has heard, and is not the emergency yet.
	End  bool `json:"end,omitempty"`
	Late bool `json:"late,omitempty"`
}

// Takeover is how the rotation of a credential stands to an incident.
type Takeover string

// What a rotation may be.
const (
	// TakeoverActs: it answers that it is the incident's emergency; TakeoverHeard, that it becomes that at its next safe point, or is the
	// emergency of another incident with the same keys, which has a deadline of its own.
	TakeoverActs  Takeover = "acts"
	TakeoverHeard Takeover = "heard"
	// TakeoverSilent: it runs, and does not say so: it is stuck, or no rotation of ours, or no worker has it.
	TakeoverSilent Takeover = "silent"
	// TakeoverEnded: it ran, and this has ended it.
	TakeoverEnded Takeover = "ended"
	// TakeoverGone: none runs, or not any more.
	TakeoverGone Takeover = "gone"
)

// emergencyType is the workflow type of emergencies.
const emergencyType = "EmergencyRotation"

// askedFor is how long a rotation has to answer a question.
const askedFor = 5 * time.Second

// Follow asks the rotation of a credential whether it follows an incident, and ends it, when that is asked for and it does not, or only says so: only by
// a declaration whose incident may go on, and that lists an exposed key of this credential. Whatever was done is in the store, and the next run
// goes on from there. Called again it looks again.
func (a *Activities) Follow(ctx context.Context, in TakeoverInput) (Takeover, error) {
	t, err := a.follow(ctx, in)
	return t, forTemporal(err)
}

func (a *Activities) follow(ctx context.Context, in TakeoverInput) (Takeover, error) {
	d, by := incident.Declaration{Incident: in.Incident}, ""
	if in.End || in.Late {
		var err error
		if d, by, err = a.declaration(in.Emergency); err != nil {
			return "", err
		}
		if err = d.Lasts(a.Now()); err == nil && len(d.Keys(in.Credential)) == 0 {
			err = fmt.Errorf("it lists no exposed key of %q", in.Credential)
		}
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrDeclaration, err)
		}
	}
	run, err := a.run(ctx, in.Credential)
	switch {
	case err != nil:
		return "", err
	case !run.Running:
		return TakeoverGone, nil
	}
	heard, acts := a.heard(ctx, in.Credential, run.ID, d.Incident)
	switch {
	case heard && acts && run.Type == emergencyType:
		return TakeoverActs, nil
	case heard && !in.Late:
		return TakeoverHeard, nil
	case !heard && !in.End:
		return TakeoverSilent, nil
	}
	id := WorkflowID(in.Credential)
	ending := audit.Event{
		ID: "seen/" + run.ID + "/" + string(audit.RotationTerminated), Time: a.Now().UTC(), Type: audit.RotationTerminated,
		Credential: in.Credential, Rotation: cmp.Or(run.Rotation, run.ID), Run: run.ID, Actor: "worker", Detail: map[string]string{"incident": d.Incident, "by": by, "reason": d.Reason},
	}
	if err := a.Audit.Append(ctx, ending); err != nil {
		return "", err
	}
	var gone *serviceerror.NotFound
	err = a.Runs.TerminateWorkflow(ctx, id, run.ID, "keyturn: "+d.Incident+" takes the credential over, and this run did not become its emergency")
	if err != nil && !errors.As(err, &gone) {
		return "", fmt.Errorf("ending run %s of %s, which does not become the emergency: %w", run.ID, id, err)
	}
	return TakeoverEnded, nil
}

// heard asks a run which incidents it follows, and whether it acts by this one's declaration, and so at its deadline. Who does not answer
// has not heard.
func (a *Activities) heard(ctx context.Context, credential, run, by string) (heard, acts bool) {
	ctx, done := context.WithTimeout(ctx, askedFor)
	defer done()
	var status struct {
		Incidents []string `json:"incidents"`
		ActsBy    string   `json:"actsBy"`
	}
	value, err := a.Runs.QueryWorkflow(ctx, WorkflowID(credential), run, "status")
	if err == nil {
		err = value.Get(&status)
	}
	if err != nil {
		logger(ctx).Warn("a rotation does not answer an incident", "credential", credential, "run", run, "error", err.Error())
		return false, false
	}
	return slices.Contains(status.Incidents, by), status.ActsBy == by
}
