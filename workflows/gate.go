package workflows

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// errGateExpired: nobody decided in time; what the gate stood on is gathered anew.
var errGateExpired = errors.New("the gate's request expired")

// gate asks for approvals and waits for them. A rejection comes as a turn.
func (r *rotation) gate(g inventory.Gate, e *policy.Evidence) ([]policy.Verdict, error) {
	never := func() bool { return false }
	if e == nil {
		return r.openGate(g, PhaseSignoff, "Waiting for approval to begin; nothing is changed yet.", "", false, never)
	}
	return r.openGate(g, PhaseRevokeGate, "Waiting for approval to revoke the retiring key: "+e.Describe(), e.Digest, e.Unseen, never)
}

// openGate is gate with what is shown. Once it is needless it is as good as passed.
func (r *rotation) openGate(g inventory.Gate, phase Phase, doing, evidence string, unseen bool, needless func() bool) ([]policy.Verdict, error) {
	needs := policy.Needs(r.credential, g, unseen)
	if needs == nil || needs.Count == 0 {
		return nil, nil
	}
	open := &policy.OpenGate{
		Gate: g, Needs: *needs, Run: workflow.GetInfo(r.ctx).WorkflowExecution.RunID, OpenedAt: workflow.Now(r.ctx), Evidence: evidence,
	}
	r.Status.Gate, r.proved, r.refusals = open, 0, 0
	defer func() { r.Status.Gate = nil }()
	r.enter(phase, doing)
	if g == inventory.GateHold {
		r.findable(PhaseHoldGate)
		defer r.findable(phase)
	}
	r.waitFor(fmt.Sprintf("the %s gate: %d must approve", g, needs.Count), approvers(*needs)+"; or reject")
	r.happened(audit.GateOpened, map[string]string{"gate": string(g), "evidence": open.Evidence})
	subject, body := fmt.Sprintf("Approval needed: %s gate", g), doing+" "+open.How(r.Status.Credential)+"."
	asked := 0
	ask := func(subject string) {
		asked++
		this := asked
		r.askFor(open.Gate, subject, body, func() bool { return r.Status.Gate != open || this != asked })
	}
	ask(subject)

	expires := func() time.Time { return time.Time{} }
	if needs.RequestExpires > 0 {
		end := open.OpenedAt.Add(needs.RequestExpires.Std())
		expires = func() time.Time { return end }
	}
	passed := func() bool { return needless() || open.Passed(workflow.Now(r.ctx)) }
	if err := r.waitReminding(open.Summary(), expires, passed, func() { ask("Still: " + subject) }); err != nil {
		r.happened(audit.GateClosed, map[string]string{"gate": string(g), "why": err.Error()})
		return nil, err
	}
	if !passed() {
		r.note("nobody decided on the %s gate within %s; asking again", g, needs.RequestExpires)
		r.happened(audit.GateClosed, map[string]string{"gate": string(g), "why": "expired"})
		return nil, errGateExpired
	}
	if needless() {
		r.happened(audit.GateClosed, map[string]string{"gate": string(g), "why": "needless"})
		return nil, nil
	}
	r.note("the %s gate is passed", g)
	r.happened(audit.GateClosed, map[string]string{"gate": string(g), "why": "passed"})
	return open.Approvals, nil
}

func approvers(a inventory.Approval) string {
	who := "anybody with access to this namespace"
	if len(a.From) > 0 {
		who = strings.Join(a.From, " or ")
	}
	return who + ", with approve"
}

// evidenceChanges is how often in a row other evidence is shown at once; after that once an hour, so
// that a consumer that flaps does not fill the history.
const evidenceChanges = 30

// evidence waits until it is proved that nobody needs the retiring key: it never guesses.
func (r *rotation) evidence() (policy.Evidence, error) {
	r.enter(PhaseEvidence, "Gathering the evidence that nobody needs the retiring key.")
	if r.Gathering == nil {
		r.Gathering = &Gathering{Late: workflow.Now(r.ctx).Add(r.credential.QuietWindow.Std() + time.Hour)}
	}
	g := r.Gathering
	if g.Lacked != "" { // in the run before
		r.waitForEvidence()
	}
	for {
		var e policy.Evidence
		input := activities.EvidenceInput{Rotation: *r.acting(), Shown: g.Lacked, Late: g.Late}
		if err := r.step(gathering(r.credential), act.GatherEvidence, &input, &e); err != nil {
			return e, err
		}
		r.Status.Evidence = &e
		if e.Complete {
			r.Gathering, r.Report.EvidenceDigest = nil, e.Digest
			r.note("evidence complete: %s", e.Describe())
			return e, nil
		}
		if e.Lacks() == g.Lacked { // so it returned because it is late
			r.tell(notifyAlert, "reminder", "The retiring key is still needed",
				"The evidence for revoking it has been incomplete for longer than its quiet window. See what it lacks with: keyturn status "+r.Status.Credential)
			g.Late = time.Time{}
		}
		g.Lacked, g.Changes = e.Lacks(), g.Changes+1
		r.happened(audit.EvidenceMissing, map[string]string{"missing": r.waitForEvidence()})
		if g.Changes >= evidenceChanges {
			next := workflow.Now(r.ctx).Add(time.Hour)
			if err := r.wait("evidence flaps", func() time.Time { return next }, nil); err != nil {
				return e, err
			}
		}
	}
}

// waitForEvidence says what the evidence lacks.
func (r *rotation) waitForEvidence() (missing string) {
	var messages []string
	if r.Status.Evidence != nil {
		for _, d := range r.Status.Evidence.Missing {
			messages = append(messages, d.Message)
		}
	}
	missing = strings.Join(messages, "; ")
	r.findable(PhaseEvidence)
	r.waitFor(missing, "whoever runs the consumers named"+orRollback)
	return missing
}
