package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// SweepInput asks what nobody looks after at these credentials.
type SweepInput struct {
	Entries []Entry `json:"entries"`
	// RetryAfter is how long after the end of a credential's last run its debt is taken up again.
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
}

// Swept is what was found.
type Swept struct {
	Credentials int              `json:"credentials"`
	Findings    []policy.Finding `json:"findings,omitempty"`
	// Debts are retired keys for which the revoke gate may be opened again.
	Debts []RetiredKey `json:"debts,omitempty"`
	// Steps are those of rotations that failed when they were looked at, with the attempt.
	Steps map[string]int `json:"steps,omitempty"`
}

// RetiredKey is a retired key of a credential that is still alive.
type RetiredKey struct {
	Credential string `json:"credential"`
	KeyID      string `json:"keyID"`
}

// Sweep looks at credentials: issuer, store, instances and the latest run, and judges. What cannot be looked at is
// a finding, too; only the end of the activity's own time is an error. It changes nothing, but puts on record what a run that was cut off could not.
func (a *Activities) Sweep(ctx context.Context, in SweepInput) (Swept, error) {
	var out Swept
	full := a.slotsFull(ctx)
	for _, e := range in.Entries {
		signed, err := a.Applied.SpecIn(ctx, e.Named)
		switch {
		case errors.Is(err, ErrLeft):
			continue // it was removed since it was listed
		case errors.Is(err, ErrSpec):
			out.Findings = append(out.Findings, policy.Unreadable(e.Inventory, e.Credential, err.Error()))
		case err != nil:
			return Swept{}, forTemporal(err)
		default:
			a.sweep(ctx, e, signed, in.RetryAfter, full, &out)
		}
		if err := ctx.Err(); err != nil {
			return Swept{}, err
		}
		out.Credentials++
		activity.RecordHeartbeat(ctx)
	}
	for i := range out.Findings {
		f := &out.Findings[i]
		f.Message, f.Do, f.About = outside.Text(f.Message, longestFinding), outside.Text(f.Do, longestFinding), outside.Text(f.About, longestOutside)
	}
	return out, nil
}

// slotsFull tells how many slots the routine rotations of an environment have when all are taken, and else 0. Where that is not known, no
// finding says so.
func (a *Activities) slotsFull(ctx context.Context) func(environment string) int {
	never := func(string) int { return 0 }
	if a.Index == nil {
		return never
	}
	slots, err := a.Index.TakenSlots(ctx)
	if err != nil {
		activity.GetLogger(ctx).Warn("which slots are taken is not known", "error", err)
		return never
	}
	taken := map[string]int{}
	for _, s := range slots {
		if !s.Unpromoted {
			taken[s.Environment]++
		}
	}
	return func(environment string) int {
		if of, limit := a.Config().Slots(environment); taken[of] >= limit {
			return limit
		}
		return 0
	}
}

// longestFinding bounds a sentence of a finding.
const longestFinding = 600

func (a *Activities) sweep(ctx context.Context, e Entry, signed inventory.SignedSpec, retryAfter time.Duration, full func(environment string) int, out *Swept) {
	declared, s, facts := a.survey(ctx, signed, true)
	if declared.Problem != "" {
		refused := s == nil || s.within() != nil
		peek, _ := signed.Peek() // it is proved by nobody: for display
		out.Findings = append(out.Findings, policy.NotSwept(declared, peek.Credential.Owner, refused))
		a.sweepRun(ctx, e, peek, out)
		return
	}
	a.recordCutOff(ctx, e.Credential, declared.Run, facts.Metadata.LastRotation, facts.Describe(s.spec.Credential.Adopt))
	swept := policy.SweptCredential{
		Spec: s.spec, Facts: facts, Run: declared.Run, Paused: e.Paused, SlotsFull: full(s.spec.Credential.Environment), FailedBefore: a.failedBefore(ctx, declared.Run, out),
	}
	out.Findings = append(out.Findings, policy.Sweep(swept, a.Now())...)
	if id := policy.TakeUp(swept, retryAfter, a.Now()); id != "" {
		out.Debts = append(out.Debts, RetiredKey{Credential: s.spec.Credential.Name, KeyID: id})
	}
}

// sweepRun looks at the latest run of a credential at which nobody can look: it is Temporal's, and may have ended in the middle meanwhile. When
// Temporal does not say, the credential is a finding already.
func (a *Activities) sweepRun(ctx context.Context, e Entry, spec inventory.Spec, out *Swept) {
	run, err := a.run(ctx, e.Credential)
	if err != nil {
		activity.GetLogger(ctx).Warn("what became of the latest rotation is not known", "credential", e.Credential, "error", err)
		return
	}
	a.recordCutOff(ctx, e.Credential, run, nil, "")
	out.Findings = append(out.Findings, policy.SweepRun(policy.SweptCredential{Spec: spec, Run: run, FailedBefore: a.failedBefore(ctx, run, out)}, a.Now())...)
}

// failedBefore tells whether the sweep before saw the run's step fail too, at an earlier attempt: one that waits for
// hours may fail once when it is looked at. It keeps what this sweep saw.
func (a *Activities) failedBefore(ctx context.Context, r policy.Run, out *Swept) bool {
	id, failing := r.FailingStep()
	if !failing {
		return false
	}
	if out.Steps == nil {
		out.Steps = map[string]int{}
	}
	out.Steps[id] = r.StepAttempts
	if a.Swept == nil {
		return false
	}
	before, found, err := a.Swept(ctx)
	if err != nil {
		activity.GetLogger(ctx).Warn("what the sweep before saw is not known", "error", err)
		return false
	}
	attempt, seen := before.Steps[id]
	return found && seen && attempt < r.StepAttempts
}

// Bounds of what is looked at beside the credentials that are applied.
const (
	pagesOfRuns = 20
	runsAPage   = 1000
	mostAstray  = 500
)

// SweepAstray looks at what two inventories have applied, and at rotations of credentials that no inventory has applied: of a file, or
// removed since. Those that ended as they should are not told of. More tells that there are others, beyond its bounds. It changes nothing, but for the record.
func (a *Activities) SweepAstray(ctx context.Context) (Astray, error) {
	if a.Applied == nil {
		return Astray{}, nil
	}
	entries, err := a.Applied.Entries(ctx)
	if err != nil {
		return Astray{}, forTemporal(err)
	}
	applied := map[string]bool{}
	var claims []policy.Claim
	for _, e := range entries {
		applied[e.Credential] = true
		claims = append(claims, policy.Claim{Inventory: e.Inventory, Credential: e.Credential, Account: e.Account, Principals: e.Principals})
	}
	var out Astray
	out.Findings = policy.ClaimedTwice(claims)
	if out.More = len(out.Findings) > mostAstray; out.More {
		out.Findings = out.Findings[:mostAstray]
	}
	if a.Runs == nil {
		return out, nil
	}
	owners := map[string]string{}
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: "WorkflowType IN ('Rotation', 'EmergencyRotation') AND ExecutionStatus IN ('Running', 'Failed', 'Terminated', 'TimedOut', 'Canceled')", PageSize: runsAPage,
	}
	for range pagesOfRuns {
		answer, err := a.Runs.ListWorkflow(ctx, request)
		if err != nil {
			return Astray{}, forTemporal(fmt.Errorf("listing rotations: %w", err))
		}
		for _, e := range answer.GetExecutions() {
			name, rotates := Credential(e.GetExecution().GetWorkflowId())
			if !rotates || applied[name] || !inventory.IsName(name) {
				continue
			}
			if _, seen := owners[name]; !seen && len(owners) == mostAstray {
				out.More = true
				continue
			}
			var owner string
			if p := e.GetSearchAttributes().GetIndexedFields()["KeyturnOwner"]; p != nil {
				_ = converter.GetDefaultDataConverter().FromPayload(p, &owner) // for display
			}
			owners[name] = owner
		}
		if request.NextPageToken = answer.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
		activity.RecordHeartbeat(ctx)
	}
	out.More = out.More || len(request.NextPageToken) > 0
	var swept Swept
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		run, err := a.run(ctx, name) // the latest one
		if err != nil {
			return Astray{}, forTemporal(err)
		}
		a.recordCutOff(ctx, name, run, nil, "")
		out.Findings = append(out.Findings, policy.Astray(name, outside.Text(owners[name], longestOutside), run, a.failedBefore(ctx, run, &swept), a.Now())...)
		activity.RecordHeartbeat(ctx)
	}
	for i := range out.Findings {
		out.Findings[i].Message = outside.Text(out.Findings[i].Message, longestFinding)
	}
	out.Steps = swept.Steps
	return out, nil
}

// Astray is what was found of rotations whose credentials are not applied.
type Astray struct {
	Findings []policy.Finding `json:"findings,omitempty"`
	Steps    map[string]int   `json:"steps,omitempty"`
	More     bool             `json:"more,omitempty"`
}

// SweepSigners finds who may not sign for long any more, by the files of the worker configuration.
func (a *Activities) SweepSigners(context.Context) ([]policy.Finding, error) {
	config := a.Config()
	var ends []policy.SignerEnd
	look := func(file, what string) {
		signers, err := signed.LoadSigners(file)
		if err != nil {
			return // doctor tells
		}
		signers.Ends(func(by signed.Signer, until time.Time) {
			ends = append(ends, policy.SignerEnd{File: file, For: what, Name: by.Name, Key: by.Key, End: until})
		})
	}
	for _, t := range config.Trust.Inventory {
		look(t.AllowedSigners, "specs of "+strings.Join(t.Environments, ", "))
	}
	for _, group := range slices.Sorted(maps.Keys(config.Trust.Approvers)) {
		look(config.Trust.Approvers[group], "as one of "+group)
	}
	return policy.Expiring(ends, a.Now()), nil
}

// LatestSweep returns the report of the last sweep that ended; the zero one when there is none.
func (a *Activities) LatestSweep(ctx context.Context) (policy.SweepReport, error) {
	if a.Swept == nil {
		return policy.SweepReport{}, nil
	}
	report, _, err := a.Swept(ctx)
	return report, forTemporal(err)
}

// AnnounceInput has what a sweep found that the one before did not, and what people are to be reminded of.
type AnnounceInput struct {
	// Sweep names the run.
	Sweep    string           `json:"sweep"`
	At       time.Time        `json:"at"`
	Findings []policy.Finding `json:"findings"`
	// All counts them, also those that are not listed.
	All int `json:"all"`
}

// namedInMessage is how many findings a message names.
const namedInMessage = 20

// Announce tells people of new findings, in one message to each notifier: those of a credential that names notifiers go
// to these alone. One notifier that fails does not keep the others from hearing; the error's details are the IDs of
// the findings that some notifier has heard of.
func (a *Activities) Announce(ctx context.Context, in AnnounceInput) error {
	var told []string
	var failed []error
	config := a.Config()
	for _, n := range config.Notify {
		mine := slices.DeleteFunc(slices.Clone(in.Findings), func(f policy.Finding) bool { return !wants(config, n, f.Notify) })
		if len(mine) == 0 {
			continue
		}
		if err := a.tell(ctx, n, announcement(in, mine)); err != nil {
			failed = append(failed, err)
			continue
		}
		for _, f := range mine {
			told = append(told, f.ID)
		}
	}
	if err := errors.Join(failed...); err != nil {
		slices.Sort(told)
		return temporal.NewApplicationErrorWithOptions(capText(err.Error()), TypePassing, temporal.ApplicationErrorOptions{Details: []any{slices.Compact(told)}})
	}
	return nil
}

// wants tells whether a notifier is one of those named; all are when none of the names is configured any more.
func wants(config *workerconfig.Config, n workerconfig.Notifier, named []string) bool {
	there := slices.ContainsFunc(config.Notify, func(other workerconfig.Notifier) bool { return slices.Contains(named, other.Name) })
	return !there || slices.Contains(named, n.Name)
}

// announcement is the message about findings; with those that are only counted, there are more.
func announcement(in AnnounceInput, findings []policy.Finding) providers.Notification {
	severity := providers.Action
	var lines []string
	for i, f := range findings {
		if f.Alarming() {
			severity = providers.Alert
		}
		if i < namedInMessage {
			about := strings.TrimSpace(string(f.Kind) + " " + f.Credential)
			if f.Owner != "" {
				about += " of " + f.Owner
			}
			if f.Old(in.At) {
				about += ", since " + f.Since.UTC().Format(time.DateOnly)
			}
			lines = append(lines, fmt.Sprintf("%s: %s. What to do: %s", about, f.Message, f.Do))
		}
	}
	all := len(findings) + max(in.All-len(in.Findings), 0)
	if more := all - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more: keyturn sweep", more))
	}
	subject := "Sweep found 1 thing that nobody looks after"
	if all != 1 {
		subject = fmt.Sprintf("Sweep found %d things that nobody looks after", all)
	}
	return providers.Notification{
		ID: "sweep/" + in.Sweep, Type: "dev.keyturn.sweep.found", Severity: severity, Subject: subject, Body: strings.Join(lines, "\n"), At: in.At,
		Data: map[string]string{"new": fmt.Sprint(all)},
	}
}

// DebtInput names, as Retiring and by its ID alone, a key that was left alive.
type DebtInput struct {
	Rotation
	// Asked: a person named it, and not Sweep. They are told what it is, if it may not be ended.
	Asked bool `json:"asked,omitempty"`
}

// InspectDebt plans the end of a key that was left alive. It changes nothing.
func (a *Activities) InspectDebt(ctx context.Context, in DebtInput) (policy.Settlement, error) {
	s, err := a.open(in.Rotation)
	if err != nil {
		return policy.Settlement{}, forTemporal(err)
	}
	facts, err := s.shown(ctx, in.Asked)
	if err != nil {
		return policy.Settlement{}, forTemporal(fmt.Errorf("inspecting the debt of %q: %w", s.spec.Credential.Name, err))
	}
	return policy.Settle(s.spec, facts, in.Retiring.KeyID, in.Asked, s.cannotApprove), nil
}
