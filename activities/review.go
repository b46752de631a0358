package activities

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/signed"
)

// ReviewInput is somebody's review of an incident, and all that that acted by.
type ReviewInput struct {
	Declarations []signed.Envelope `json:"declarations"`
	Review       signed.Envelope   `json:"review"`
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
	declared := map[string]bool{}
	for _, e := range in.Declarations {
		d, by, err := a.declaration(Emergency{Declaration: e})
		if err != nil {
			return r, nil, err
		}
		with, _ := e.KeyFingerprint() // it is proved
		switch {
		case d.Incident != review.Incident:
			return refuse(fmt.Errorf("it reviews %s, and a declaration is of %s", review.Incident, d.Incident))
		case reviewer.Name == by || with == reviewer.Key:
			return refuse(fmt.Errorf("%s declared the incident, and somebody else has to review it", by))
		}
		declared[by] = true
		credentials = append(credentials, slices.Collect(maps.Keys(d.Exposed))...)
	}
	digests, err := incident.Digests(in.Declarations)
	switch {
	case err != nil:
		return refuse(err)
	case review.Namespace != a.Namespace || !slices.Equal(review.Declarations, digests):
		return refuse(fmt.Errorf("it reviews %s of namespace %q by other declarations than these", review.Incident, review.Namespace))
	case review.SignedAt.After(a.Now().Add(incident.Skew)):
		return refuse(fmt.Errorf("it is signed at %s, which is to come", review.SignedAt.UTC().Format(time.RFC3339)))
	}
	slices.Sort(credentials)
	by := strings.Join(slices.Sorted(maps.Keys(declared)), ", ")
	return Reviewed{Incident: review.Incident, By: reviewer.Name, Declared: by, Comment: review.Comment, At: review.SignedAt.UTC()}, slices.Compact(credentials), nil
}
