package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// EmergencyRotation ends the exposed keys of one credential, by the declaration of an incident: another key is issued where consumers
// have none but an exposed one, and brought to all at once; then each exposed key is destroyed without delay, and at the incident's
// deadline whoever still uses it. Its workflow ID is that of the credential's rotation; a routine one that runs becomes it.
func EmergencyRotation(ctx workflow.Context, in RotationInput) (Report, error) {
	if in.Emergency == nil {
		return Report{}, temporal.NewNonRetryableApplicationError("an emergency acts by the declaration of an incident, and this one has none: nothing was touched", FailedType, nil)
	}
	r, err := newRotation(ctx, in)
	if err != nil {
		return Report{}, err
	}
	report, err := r.end(r.emergency())
	r.answer(report)
	return report, err
}

// takenOver has the rotation end at its next safe point, also one that turns back, and go on as the emergency that an incident wants.
// What an incident proves is looked at first: whoever may send a signal stops nothing.
func (r *rotation) takenOver(ctx workflow.Context, c Compromised) {
	if e := r.in.Emergency; e != nil { // it is one already: who wants the same hears of its end
		e.Incidents = policy.Union(e.Incidents, c.Emergency.Incidents)
		r.Status.Incidents = e.Incidents
		return
	}
	if r.takeover != nil {
		r.takeover.Incidents = policy.Union(r.takeover.Incidents, c.Emergency.Incidents)
		r.Status.Incidents = r.takeover.Incidents
		return
	}
	var declared activities.Declared
	input := activities.DeclarationInput{Emergency: c.Emergency.Emergency, Credential: r.Status.Credential}
	if err := declaring.start(ctx, r.Queue, act.ProveDeclaration, input).Get(ctx, &declared); err != nil {
		r.notice("an incident that wants to take over was not followed: %s", cause(err))
		return
	}
	d := declared.Declaration
	r.note("%s, declared by %s: %s", d.Incident, declared.By, d.Reason)
	if r.over() || r.Status.Phase == PhaseRecord {
		r.note("the rotation is ending: the emergency begins after it")
		return
	}
	r.happened(audit.TakenOver, map[string]string{"incident": d.Incident, "reason": d.Reason, "by": declared.By})
	r.takeover, r.Status.Incidents = c.Emergency, c.Emergency.Incidents
	r.Turn = turnTo(Superseded, Exposed, "Taken over by %s: %s", d.Incident, d.Reason)
}

// emergency sees every exposed key dead, and consumers on another one.
func (r *rotation) emergency() error {
	d, err := incident.Peek(r.in.Emergency.Declaration)
	if err != nil {
		return refused(policy.SpecRefused, "the declaration cannot be read; nothing was touched")
	}
	r.Turn, r.Breach, r.Soak, r.Status.Gate, r.Status.Evidence, r.Plan = nil, nil, nil, nil, nil, policy.Plan{}
	r.Status.Waves, r.Status.Incidents, r.Report.Incident = nil, r.in.Emergency.Incidents, d.Incident
	r.Status.ActsBy = d.Incident
	if r.in.Carried == nil {
		if err := r.accept(act.Recognise); err != nil {
			return err
		}
	}
	deadline, exposed := d.Begun(r.in.Emergency.Since).Add(d.Deadline.Std()), d.Keys(r.Status.Credential)
	r.enter(PhaseContain, fmt.Sprintf("Ending %s, exposed by %s: %s", strings.Join(exposed, ", "), d.Incident, d.Reason))
	r.note("%s: %s. Exposed: %s", d.Incident, d.Reason, strings.Join(exposed, ", "))
	r.tell(notifyAlert, "emergency", map[bool]string{true: "DRILL: "}[d.Drill]+"Emergency: exposed keys of "+r.Status.Credential,
		fmt.Sprintf("%s: %s. %s: destroyed as soon as all consumers are on another key, and %s whoever still uses it. Where deployments are frozen meanwhile, this lets them go on: keyturn incident unfreeze %s",
			d.Incident, d.Reason, strings.Join(exposed, ", "), deadline.UTC().Format(time.RFC3339), d.Incident))
	r.until(deadline)
	r.waitFor("every consumer to be on another key", "time: at the deadline it goes on without those that are not")
	replaced, err := r.replaceBy(deadline)
	if err != nil {
		return err
	}
	ended := r.endAll(exposed, deadline)
	review := r.beginMisuseReview()
	defer r.endMisuseReview(review)
	if ended != nil {
		return ended
	}
	if !replaced {
		r.waitFor("the consumers that have no key that works", "whoever runs them")
		if err := r.replace(time.Time{}); err != nil {
			return failed(StepFailed, "%s But not every consumer has another one: %s", r.contained(), cause(err))
		}
	}
	return nil
}

// errLate ends what an emergency waits for at its deadline.
var errLate = errors.New("the incident's deadline has passed")

// replaceBy brings every consumer to a key that is not exposed, and tells whether it did before the deadline. What fails is tried again
// and again until then.
func (r *rotation) replaceBy(deadline time.Time) (bool, error) {
	for said := ""; workflow.Now(r.ctx).Before(deadline); {
		err := r.replace(deadline)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, errLate):
			continue
		case isType(err, activities.TypeDeclaration, activities.TypeSpec):
			r.Report.Unconfirmed = isType(err, activities.TypeDeclaration)
			return false, failed(StepFailed, "NOT CONTAINED: %s", cause(err))
		}
		if why := cause(err); why != said {
			said = why
			r.note("not every consumer is on another key yet: %s", why)
			r.tell(notifyAlert, "emergency-trouble/"+why, "Emergency: "+r.Status.Credential+" is not contained yet", why)
		}
		if err := sleep(r.ctx, min(10*time.Second, deadline.Sub(workflow.Now(r.ctx))), "before trying again to bring consumers to another key"); err != nil {
			return false, err
		}
	}
	r.note("the deadline has passed, and not every consumer is on another key: what is exposed ends now")
	return false, nil
}

// replace brings every consumer to a key that is not exposed: the one in CURRENT, or else one that is made CURRENT.
func (r *rotation) replace(until time.Time) error {
	var x policy.Exposure
	if err := r.before(until, assessing, act.AssessExposure, r.subject(), &x); err != nil {
		return err
	}
	if !x.CurrentExposed {
		r.Status.Incoming = x.Current
		r.retires(x.Alive)
		return r.deliverToAll(until)
	}
	if r.Status.Retiring = x.Current; !x.Incoming.IsZero() {
		r.Status.Incoming = x.Incoming
	}
	if id := r.Status.Incoming.KeyID; id != "" && !slices.Contains(x.Stored, id) {
		r.Status.Incoming = key.Ref{} // what was minted for this rotation is exposed, too, or gone, or its value is
		r.Ordinal++
	}
	if !x.Frees.IsZero() {
		r.note("all slots of the issuer are taken: exposed key %s ends first, so that another one can be issued", x.Frees.KeyID)
		if err := r.endOne(x.Frees.KeyID, until); err != nil {
			return err
		}
	}
	r.Ordinal = max(r.Ordinal, 1)
	input := activities.IssueInput{Rotation: *r.acting(), Ordinal: r.Ordinal}
	input.Start = policy.Start{Now: true} // an emergency asks no calendar
	if !x.Incoming.IsZero() && x.Rotation != r.Status.Rotation {
		input.Resume = x.Incoming
	}
	var issued activities.Issued
	if err := r.before(until, issuing(r.credential).urgent(), act.Issue, &input, &issued); err != nil {
		return err
	}
	if r.Status.Incoming.KeyID != issued.Key.KeyID {
		r.note("key %s takes the place of what is exposed", issued.Key.KeyID)
	}
	r.Status.Incoming = issued.Key
	if !issued.Decision.OK {
		return fmt.Errorf("the incoming key does not work: %s", issued.Decision.Message)
	}
	// CURRENT moves first: who reads the store by themselves have the key from then on, and nobody holds that up.
	r.Promoted = true
	var d policy.Decision
	if err := r.before(until, promoting.urgent(), act.Promote, r.acting(), &d); err != nil {
		return err
	}
	if !d.OK {
		return fmt.Errorf("it may not be promoted: %s", d.Message)
	}
	r.became(RoleIncoming, KeyCurrent)
	r.note("promoted key %s to CURRENT", r.Status.Incoming.KeyID)
	return r.deliverToAll(until)
}

// retires names one of the exposed keys as the retiring one, for display and the record.
func (r *rotation) retires(alive []key.Ref) {
	if len(alive) > 0 && !slices.ContainsFunc(alive, func(k key.Ref) bool { return k.KeyID == r.Status.Retiring.KeyID }) {
		r.Status.Retiring = alive[0]
	}
}

// everybody names the one wave of an emergency.
const everybody = "all"

// deliverToAll brings the incoming key to every instance at once.
func (r *rotation) deliverToAll(until time.Time) error {
	var names []string
	for _, c := range r.credential.Consumers {
		for _, instance := range c.InstanceNames() {
			names = append(names, policy.InstanceName(c.Name, instance))
		}
	}
	r.Status.Waves = []WaveStatus{{Name: everybody, Instances: names, State: waveDelivering}}
	input := activities.WaveInput{Rotation: *r.acting(), Key: r.Status.Incoming, Wave: everybody}
	var result activities.WaveResult
	if err := r.before(until, delivering(r.credential, everybody).urgent(), act.DeliverWave, &input, &result); err != nil {
		return err
	}
	r.Status.Waves[0].heard(result, r.there)
	if !result.Decision.OK {
		r.Status.Waves[0].State = waveFailed
		return errors.New(result.Decision.Message)
	}
	r.Status.Waves[0].State = wavePassed
	if r.converged != r.Status.Incoming.KeyID {
		r.converged = r.Status.Incoming.KeyID
		r.note("every consumer is on key %s", r.converged)
	}
	return nil
}

// before runs an activity to its end, or to the time that is named: errLate then. It does not wait for what is cut off.
func (r *rotation) before(until time.Time, o step, activity, input, output any) error {
	ctx, cancel := workflow.WithCancel(r.ctx)
	defer cancel()
	done := o.start(ctx, r.Queue, activity, input)
	if !until.IsZero() {
		left := until.Sub(workflow.Now(r.ctx))
		if intime, err := awaitAtMost(r.ctx, max(left, 0), "the deadline of the incident", done.IsReady); err != nil {
			return err
		} else if !intime {
			return errLate
		}
	}
	err := done.Get(r.ctx, output)
	if err == nil {
		r.acknowledge(input)
	}
	return err
}

// endAll destroys each exposed key, as soon as it may be.
func (r *rotation) endAll(exposed []string, deadline time.Time) error {
	var trouble []string
	for _, id := range exposed {
		if err := r.endOne(id, deadline); err != nil {
			trouble = append(trouble, fmt.Sprintf("%s: %s", id, cause(err)))
		}
	}
	if len(trouble) > 0 {
		return failed(StepFailed, "NOT CONTAINED: %s", strings.Join(trouble, "; "))
	}
	subject := "Contained: exposed keys of " + r.Status.Credential
	if slices.ContainsFunc(r.Report.Contained, func(k ContainedKey) bool { return k.Absent }) {
		subject = "NOT CONTAINED: an exposed key of " + r.Status.Credential + " is not known"
	}
	r.tell(notifyAlert, "contained", subject, r.contained())
	so := r.Report
	so.Incoming = r.Status.Incoming
	r.answer(so)
	return nil
}

// heldFor is how long an emergency waits for a lease: whoever has it may not renew it for a term, which each worker counts by itself.
const heldFor = 3 * key.LeaseTerm

// endOne destroys an exposed key as soon as it may be.
func (r *rotation) endOne(id string, deadline time.Time) error {
	if slices.ContainsFunc(r.Report.Contained, func(k ContainedKey) bool { return k.KeyID == id }) {
		return nil // it freed its slot
	}
	held := "" // by whom, as was said last
	for since := workflow.Now(r.ctx); ; {
		r.Revokes++
		input := activities.ContainInput{Rotation: *r.acting(), Key: key.Ref{KeyID: id}}
		var d activities.Destroyed
		late := workflow.Now(r.ctx).Sub(deadline) > time.Minute // by any worker's clock
		err := r.run(containing.urgent(), act.Contain, &input, &d)
		left := deadline.Sub(workflow.Now(r.ctx))
		switch {
		case isType(err, activities.TypeHeld) && workflow.Now(r.ctx).Sub(since) < heldFor:
			if why := cause(err); why != held {
				held = why
				r.note("exposed key %s is alive: %s", id, why)
				r.tell(notifyAlert, "emergency-held", "Emergency: "+r.Status.Credential+" is not contained yet", why)
			}
			if err := sleep(r.ctx, 10*time.Second, "before trying again to end the exposed key"); err != nil {
				return err
			}
			continue
		case err != nil:
			r.Report.Unconfirmed = isType(err, activities.TypeDeclaration)
			return err
		case d.Decision.OK:
			absent := d.Decision.Reason == policy.KeyAbsent
			r.Report.Contained = append(r.Report.Contained, ContainedKey{KeyID: id, At: workflow.Now(r.ctx), Probe: d.Probe, Absent: absent})
			if absent {
				r.notice("%s", d.Decision.Message)
				return nil
			}
			if id == r.Status.Retiring.KeyID {
				r.became(RoleRetiring, KeyDestroyed)
			}
			r.note("exposed key %s is dead: %s", id, cmp.Or(d.Probe, d.Decision.Message))
			return nil
		case late: // what still holds it is no consumer, and does not pass
			return errors.New(d.Decision.Message)
		}
		r.note("exposed key %s is alive: %s", id, d.Decision.Message)
		if err := sleep(r.ctx, max(time.Second, min(10*time.Second, left)), "before trying again to end the exposed key"); err != nil {
			return err
		}
	}
}

// contained says which keys are dead, and which nobody knows.
func (r *rotation) contained() string {
	var dead, absent, said []string
	for _, k := range r.Report.Contained {
		if k.Absent {
			absent = append(absent, k.KeyID)
		} else {
			dead = append(dead, k.KeyID)
		}
	}
	if len(absent) > 0 {
		said = append(said, fmt.Sprintf("The issuer has no key %s: ended before, or mistyped.", strings.Join(absent, ", ")))
	}
	if len(dead) > 0 {
		said = append(said, "Dead: "+strings.Join(dead, ", ")+".")
	}
	return strings.Join(append(said, fmt.Sprintf("Consumers are sent to %s.", r.Status.Incoming.KeyID)), " ")
}

// answer tells each incident that wanted this emergency how it stands, or how it ended; who is gone need not hear it.
func (r *rotation) answer(report Report) {
	for _, id := range r.in.Emergency.Incidents {
		err := workflow.SignalExternalWorkflow(r.ctx, id, "", NewsName, EmergencyNews{Credential: r.Status.Credential, Report: report}).Get(r.ctx, nil)
		if err != nil {
			workflow.GetLogger(r.ctx).Warn("an incident was not told", "incident", id, "error", err.Error())
		}
	}
}
