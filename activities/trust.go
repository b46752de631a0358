package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// spec reads the spec strictly, once it is proved that somebody signed it who may, for its environment and
// for this namespace. Where nobody is trusted to sign for the environment, and only there, a worker that
// allows it takes an unsigned one. by is empty then.
func (a *Activities) spec(in inventory.SignedSpec) (spec inventory.Spec, by signed.Signer, err error) {
	if in.Signature == "" {
		spec, err := a.unsigned(in)
		return spec, by, err
	}
	peek, err := in.Peek()
	if err != nil {
		return spec, by, fmt.Errorf("reading spec: %w: it is no JSON object of a spec", ErrSpec)
	}
	environment := peek.Credential.Environment
	signers, err := a.Config().InventorySigners(environment)
	if err != nil {
		return spec, by, fmt.Errorf("reading spec: %w: %w", ErrUntrusted, err)
	}
	body, signer, err := in.Open(signed.Spec, signers, a.Now())
	switch {
	case errors.Is(err, signed.ErrUntrusted):
		return spec, by, fmt.Errorf("reading spec of environment %q: %w: %w", environment, ErrUntrusted, err)
	case err != nil:
		return spec, by, fmt.Errorf("reading spec: %w: %w", ErrSpec, err)
	}
	spec, err = a.parse(body)
	switch {
	case err != nil:
		return spec, by, err
	case spec.Credential.Environment != environment:
		// The envelope's own body said the environment twice, to choose other signers.
		return spec, by, fmt.Errorf("reading spec: %w: it is not clear for which environment it is", ErrSpec)
	case spec.Namespace != a.Namespace:
		return spec, by, fmt.Errorf("reading spec: %w: it is signed for namespace %q, and this is %q", ErrSpec, spec.Namespace, a.Namespace)
	}
	return spec, signer, nil
}

// current refuses a spec that was to be used until now: nothing may begin by it. What has begun may end.
func (a *Activities) current(spec inventory.Spec) error {
	if spec.NotAfter.IsZero() || a.Now().Before(spec.NotAfter) {
		return nil
	}
	return fmt.Errorf("reading spec: %w: it is to be used until %s", ErrSpec, spec.NotAfter.UTC().Format(time.RFC3339))
}

func (a *Activities) unsigned(in inventory.SignedSpec) (inventory.Spec, error) {
	if !a.AllowUnsigned {
		return inventory.Spec{}, fmt.Errorf("reading spec: %w: it is unsigned, and the worker runs without --allow-unsigned: send it with --sign", ErrSpec)
	}
	spec, err := a.parse(in.Body)
	switch {
	case err != nil:
		return spec, err
	case a.Config().DemandsSignature(spec.Credential.Environment):
		return spec, fmt.Errorf("reading spec: %w: it is unsigned, and the worker configuration names who signs for environment %q: send it with --sign", ErrSpec, spec.Credential.Environment)
	case spec.Namespace != "" && spec.Namespace != a.Namespace:
		return spec, fmt.Errorf("reading spec: %w: it is for namespace %q, and this is %q", ErrSpec, spec.Namespace, a.Namespace)
	}
	return spec, nil
}

// farAhead is how far in the future a generation may lie. One without bound would lock out every later
// spec, since the highest generation that a key was issued with is kept.
const farAhead = time.Hour

func (a *Activities) parse(body []byte) (inventory.Spec, error) {
	spec, err := a.specs.get(body, func(body []byte) (inventory.Spec, error) { return inventory.ParseSpec(body, a.Catalog) })
	if err != nil {
		return spec, fmt.Errorf("reading spec: %w: %w", ErrSpec, err)
	}
	if spec.Generation > a.Now().Add(farAhead).UnixMilli() {
		return spec, fmt.Errorf("reading spec: %w: it is signed at %s (its generation), which is more than %s ahead: set right the clock of whoever signed it, and sign again", ErrSpec,
			time.UnixMilli(spec.Generation).UTC().Format(time.RFC3339), inventory.Duration(farAhead))
	}
	return spec, nil
}

// clockOff is by how much the clock of a worker that changes something may differ from Temporal's. Waits are longer than that, and an
// attempt seldom takes as long from the server to here.
const clockOff = time.Minute

// AheadOfTemporal is by how much this machine's clock is ahead of Temporal's, and what the attempt took from there to here.
func AheadOfTemporal(ctx context.Context) time.Duration {
	return time.Since(activity.GetInfo(ctx).StartedTime)
}

// clockIsRight refuses what is judged by a clock that is not Temporal's.
func (a *Activities) clockIsRight(ctx context.Context) error {
	if a.Ahead == nil {
		return nil
	}
	if off := a.Ahead(ctx).Round(time.Second); off.Abs() > clockOff {
		return fmt.Errorf("%w: it is %s ahead, unless the process stood still since it was given the task: set it right, or let another worker go on", errClock, off)
	}
	return nil
}

// openForEffect opens the credential for an activity that changes something. Such an activity must run
// in the credential's own rotation, whose workflow ID is the mutex, within the configured bounds, and by
// a spec that is not older than the one that a key was last issued with, on a worker whose clock is right. It has the secret for itself, among
// the activities of this process, until release.
func (a *Activities) openForEffect(ctx context.Context, r Rotation) (*site, error) {
	return a.openHolding(ctx, r, false)
}

// openHolding is openForEffect, again when a run that has ended may.
func (a *Activities) openHolding(ctx context.Context, r Rotation, again bool) (*site, error) {
	s, err := a.open(r)
	if err != nil {
		return nil, err
	}
	return s, a.hold(ctx, s, r, again)
}

// hold lets a site that was opened act: from then on it has the secret for itself until release, unless there is an error.
func (a *Activities) hold(ctx context.Context, s *site, r Rotation, again bool) (err error) {
	name := s.spec.Credential.Name
	if id := acting(ctx).workflow; id != s.workflow {
		return fmt.Errorf("acting on %q: %w: workflow %q is not its rotation", name, ErrSpec, id)
	}
	if err := a.clockIsRight(ctx); err != nil {
		return err
	}
	if s.release, err = a.mutexes.lock(ctx, s.secret()); err != nil {
		return err
	}
	// Temporal catches a panic: whatever happens here, the next attempt must find the secret free.
	acting := false
	defer func() {
		if !acting {
			s.release()
		}
	}()
	if err := a.mayAct(ctx, s, r, again); err != nil {
		return err
	}
	if err := a.holdsTo(ctx, s, r); err != nil {
		return fmt.Errorf("acting on %q: %w", name, err)
	}
	acting = true
	return nil
}

// openWithin opens the credential for an activity that only looks, within the configured bounds.
func (a *Activities) openWithin(r Rotation) (*site, error) {
	s, err := a.open(r)
	if err != nil {
		return nil, err
	}
	return s, s.within()
}

// within refuses what is out of bounds.
func (s *site) within() error {
	if denied := s.denied(); len(denied) > 0 {
		return fmt.Errorf("acting on %q: %w: %s", s.spec.Credential.Name, ErrOutOfBounds, strings.Join(denied, "; "))
	}
	return nil
}

func (a *Activities) mayAct(ctx context.Context, s *site, r Rotation, again bool) error {
	if err := s.within(); err != nil {
		return err
	}
	name := s.spec.Credential.Name
	m, err := s.store.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("acting on %q: reading metadata of the store: %w", name, err)
	}
	if d := policy.Governs(s.spec, m); !d.OK {
		refusing(ctx, d)
		return fmt.Errorf("acting on %q: %w: %s", name, ErrSpec, d.Message)
	}
	if m.Generation > s.spec.Generation {
		return fmt.Errorf("acting on %q: %w: the spec is of generation %d, and a key was already issued with %d", name, ErrSpec, s.spec.Generation, m.Generation)
	}
	if err := s.take(ctx, r, again); err != nil {
		return fmt.Errorf("acting on %q: %w", name, err)
	}
	return a.Audit.Append(ctx, told(ctx, r.Events, name, a.Now())...)
}

// Prove finds out who signed decisions: for each, in their order, who it is and in which of the spec's
// approver groups, or why nothing is proved. It changes nothing. What it says is for display and for the
// workflow to follow; the activities that disable and destroy prove the same again.
func (a *Activities) Prove(ctx context.Context, in ProveInput) ([]policy.Proof, error) {
	spec, _, err := a.spec(in.Spec)
	if err != nil {
		return nil, forTemporal(err)
	}
	proofs := make([]policy.Proof, 0, len(in.Decisions))
	for _, d := range in.Decisions {
		proof := a.prove(spec.Credential.Approvals, spec.Credential.Environment, d)
		if proof.Problem != "" {
			activity.GetLogger(ctx).Warn("decision not proved", "credential", spec.Credential.Name, "reason", proof.Problem)
		}
		proofs = append(proofs, proof)
	}
	return proofs, nil
}

// ProveInput has decisions as they were signed.
type ProveInput struct {
	Spec      inventory.SignedSpec `json:"spec"`
	Decisions []signed.Envelope    `json:"decisions"`
}

func (a *Activities) prove(approvals inventory.Approvals, environment string, d signed.Envelope) policy.Proof {
	var proof policy.Proof
	var problems []string
	breaks := a.Config().Trust.BreakGlass[environment]
	asked := groups(approvals)
	for _, group := range slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(asked), breaks...)))) {
		signers, err := a.Config().Approvers(group)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		body, by, err := d.Open(signed.Decision, signers, a.Now())
		if err != nil {
			if slices.Contains(asked, group) {
				problems = append(problems, fmt.Sprintf("group %s: %s", group, err))
			}
			continue
		}
		if proof.Request, err = policy.ParseRequest(body); err != nil {
			return policy.Proof{Problem: capText(err.Error())}
		}
		// Under two names in two groups somebody would be two people: the first name counts.
		if len(proof.Groups) == 0 || proof.By.Name == by.Name {
			proof.By, proof.Groups = by, append(proof.Groups, group)
			proof.MayBreakGlass = proof.MayBreakGlass || slices.Contains(breaks, group)
		}
	}
	switch {
	case len(proof.Groups) > 0:
	case len(problems) == 0:
		proof.Problem = "the spec names no approver group, so that nobody's signature counts"
	default:
		proof.Problem = capText(strings.Join(problems, "; "))
	}
	return proof
}

// groups are the approver groups of all gates, each once.
func groups(a inventory.Approvals) []string {
	var names []string
	for _, gate := range []inventory.Gate{inventory.GateSignoff, inventory.GateRevoke} {
		if needs := a.For(gate); needs != nil {
			names = append(names, needs.From...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// approvals returns what may be counted before an effect that a gate guards: where the gate asks for
// signatures, only what is proved here and now to be an approval for that gate of this very run, rotation and
// keys, by somebody of its groups. What was left out is why.
func (a *Activities) approvals(ctx context.Context, s *site, gate inventory.Gate, r Rotation, claimed []policy.Verdict) (valid []policy.Verdict, why []string) {
	needs := s.spec.Credential.Approvals.For(gate)
	if needs == nil || needs.Trust == inventory.TrustAny {
		return claimed, nil
	}
	who := acting(ctx)
	here := policy.Bound{
		Namespace: a.Namespace, Workflow: who.workflow, Run: who.run, Rotation: r.ID,
		Gate: gate, Retiring: r.Retiring.KeyID, Incoming: r.Incoming.KeyID,
	}
	for _, c := range claimed {
		if c.Signed == nil {
			why = append(why, "an approval has no signature")
			continue
		}
		proof := a.prove(inventory.Approvals{Revoke: needs}, s.spec.Credential.Environment, *c.Signed)
		v, problem := proof.Binds(here, a.Now())
		if problem == "" && needs.FourEyes && proof.By.Same(s.signer) {
			problem = "an approval is of who signed the spec"
		}
		if problem != "" {
			why = append(why, problem)
			continue
		}
		valid = append(valid, v)
	}
	return valid, why
}

// AwaitTrust answers "not yet" until the worker configuration lets the spec be followed: a signer who was trusted when the
// rotation began, and is not any more, holds it, and so do bounds that were narrowed since.
func (a *Activities) AwaitTrust(_ context.Context, in inventory.SignedSpec) error {
	_, err := a.openWithin(Rotation{Spec: in})
	if errors.Is(err, ErrUntrusted) || errors.Is(err, ErrOutOfBounds) {
		return notYet(err.Error(), 0)
	}
	return forTemporal(err)
}
