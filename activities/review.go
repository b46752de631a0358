package activities

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/signed"
)

// ReviewInput is somebody's review of an incident, and what that acted by.
type ReviewInput struct {
	Declaration signed.Envelope `json:"declaration"`
	Review      signed.Envelope `json:"review"`
}

// Reviewed is a review that counts.
type Reviewed struct {
	Incident string    `json:"incident"`
	By       string    `json:"by"`
	Declared string    `json:"declared"`
	Comment  string    `json:"comment"`
	At       time.Time `json:"at"`
}

// RecordReview writes into the audit record of each credential that somebody reviewed what an incident did: one whom trust.incidents
// names, and who did not declare it, neither by name nor by key. Called again it writes the same. ErrDeclaration when either signature
// proves nothing.
func (a *Activities) RecordReview(ctx context.Context, in ReviewInput) (Reviewed, error) {
	reviewed, credentials, err := a.reviewed(in)
	if err != nil {
		return Reviewed{}, forTemporal(err)
	}
	digest, err := incident.Digest(in.Review)
	if err != nil {
		return Reviewed{}, forTemporal(err)
	}
	run := activity.GetInfo(ctx).WorkflowExecution.RunID
	var events []audit.Event
	for _, name := range credentials {
		events = append(events, audit.Event{
			ID: "seen/" + reviewed.Incident + "/" + string(audit.IncidentReviewed) + "/" + digest + "/" + name, Time: a.Now().UTC(), Type: audit.IncidentReviewed,
			Credential: name, Run: run, Actor: "worker",
			Detail: map[string]string{"incident": reviewed.Incident, "by": reviewed.By, "declaredBy": reviewed.Declared, "comment": reviewed.Comment},
		})
	}
	return reviewed, forTemporal(a.Audit.Append(ctx, events...))
}

// reviewed proves a review, and tells of which credentials it is.
func (a *Activities) reviewed(in ReviewInput) (r Reviewed, credentials []string, err error) {
	d, by, err := a.declaration(Emergency{Declaration: in.Declaration})
	if err != nil {
		return r, nil, err
	}
	refuse := func(err error) (Reviewed, []string, error) { return r, nil, fmt.Errorf("%w: %w", ErrDeclaration, err) }
	signers, err := a.Config().IncidentSigners()
	if err != nil {
		return refuse(err)
	}
	body, reviewer, err := in.Review.Open(signed.Review, signers, a.Now())
	if err != nil {
		return refuse(err)
	}
	review, err := incident.ParseReview(body)
	if err != nil {
		return refuse(err)
	}
	digest, err := incident.Digest(in.Declaration)
	if err != nil {
		return refuse(err)
	}
	declaredWith, _ := in.Declaration.KeyFingerprint() // it is proved
	switch {
	case review.Namespace != a.Namespace || review.Incident != d.Incident || review.Declaration != digest:
		return refuse(fmt.Errorf("it reviews %s of namespace %q by another declaration than that of %s", review.Incident, review.Namespace, d.Incident))
	case reviewer.Name == by || declaredWith == reviewer.Key:
		return refuse(fmt.Errorf("%s declared the incident, and somebody else has to review it", by))
	case review.SignedAt.After(a.Now().Add(incident.Skew)):
		return refuse(fmt.Errorf("it is signed at %s, which is to come", review.SignedAt.UTC().Format(time.RFC3339)))
	}
	return Reviewed{Incident: d.Incident, By: reviewer.Name, Declared: by, Comment: review.Comment, At: review.SignedAt.UTC()}, slices.Sorted(maps.Keys(d.Exposed)), nil
}
