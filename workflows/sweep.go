package workflows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
)

// SweepName is the workflow type of Sweep, SweepID the ID of what its Schedule starts, SweepNowID that of one that
// a person asks for, and SweepScheduleID the ID of the Schedule.
const (
	SweepName       = "Sweep"
	SweepID         = "sweep"
	SweepNowID      = "sweep/now"
	SweepScheduleID = "keyturn/sweep"
)

// SweepInput begins a sweep, or goes on with one.
type SweepInput struct {
	// Now: a person asks, so that debt which was tried to end lately is taken up again at once.
	Now bool `json:"now,omitempty"`
	// After and Report are of a sweep that went on in a new run: the last credential looked at, and what was found so
	// far; Debts are retired keys to be taken up.
	After  activities.Named        `json:"after,omitzero"`
	Report *policy.SweepReport     `json:"report,omitempty"`
	Debts  []activities.RetiredKey `json:"debts,omitempty"`
}

const (
	// sweptAtOnce is how many credentials one run looks at before it goes on in a new one.
	sweptAtOnce = 2000
	// mostTakenUp bounds the debts that one sweep takes up: the next one goes on.
	mostTakenUp = 20
)

// sweep is the state of one run.
type sweep struct {
	scan
	in     SweepInput
	report policy.SweepReport
	debts  []activities.RetiredKey
}

// Sweep looks for what nobody looks after: overdue credentials, rotations that stand still or failed, what they
// left, drift, keys that nobody declared, signatures that end soon. It destroys nothing: for a retired key that is
// still alive it begins a run that opens the revoke gate again.
func Sweep(ctx workflow.Context, in SweepInput) (policy.SweepReport, error) {
	s := &sweep{in: in, debts: in.Debts, report: policy.SweepReport{StartedAt: workflow.Now(ctx), Counts: map[policy.FindingKind]int{}, Findings: []policy.Finding{}}}
	s.scan = scan{ctx: ctx, accounts: map[string]activities.Account{}, turn: workflow.NewSemaphore(ctx, scansAtOnce)}
	if in.Report != nil {
		s.report = *in.Report
	}
	more, err := s.credentials()
	if err != nil {
		return s.report, err
	}
	if more {
		s.in.Report, s.in.Debts = &s.report, s.debts
		return s.report, workflow.NewContinueAsNewError(ctx, Sweep, s.in)
	}
	s.astray()
	s.signers()
	s.undeclared()
	s.takeUp()
	if ctx.Err() != nil {
		return s.report, ctx.Err()
	}
	s.announce()
	s.report.EndedAt = workflow.Now(ctx)
	workflow.SetCurrentDetails(ctx, SweepMarkdown(s.report))
	return s.report, nil
}

// credentials looks at the next of those that are applied, and tells whether there are more.
func (s *sweep) credentials() (more bool, err error) {
	if _, err := s.wanted(); err != nil {
		return false, err
	}
	var entries []activities.Entry
	input := activities.ListAppliedInput{After: s.in.After, Limit: sweptAtOnce}
	if err := listing.start(s.ctx, TaskQueue, act.ListApplied, input).Get(s.ctx, &entries); err != nil {
		return false, err
	}
	byAccount := map[string][]activities.Entry{}
	for _, e := range entries {
		byAccount[e.Account] = append(byAccount[e.Account], e)
		s.in.After = e.Named
	}
	retryAfter := policy.DebtRetryAfter
	if s.in.Now {
		retryAfter = 0
	}
	all := workflow.NewWaitGroup(s.ctx)
	for _, account := range workflow.DeterministicKeys(byAccount) {
		for batch := range slices.Chunk(byAccount[account], surveyed) {
			all.Add(1)
			workflow.Go(s.ctx, func(ctx workflow.Context) {
				defer all.Done()
				var swept activities.Swept
				if err := s.ask(ctx, surveying, account, act.Sweep, activities.SweepInput{Entries: batch, RetryAfter: retryAfter}, &swept); err != nil {
					s.tell("%s from %s on could not be looked at: %s", policy.Counted(len(batch), "credential"), batch[0].Credential, cause(err))
					return
				}
				s.report.Credentials += swept.Credentials
				s.report.Add(swept.Findings...)
				s.report.Saw(swept.Steps)
				s.debts = append(s.debts, swept.Debts...)
				workflow.SetCurrentDetails(ctx, fmt.Sprintf("### Sweep\n\nLooked at %s, %s so far.", policy.Counted(s.report.Credentials, "credential"), policy.Counted(s.report.Total(), "finding")))
			})
		}
	}
	all.Wait(s.ctx)
	return len(entries) == sweptAtOnce, s.ctx.Err()
}

// tell adds a note to the report.
func (s *sweep) tell(format string, args ...any) {
	if len(s.report.Notes) < 50 {
		s.report.Notes = append(s.report.Notes, clip(fmt.Sprintf(format, args...)))
	}
}

// astray looks for rotations of credentials that are not applied.
func (s *sweep) astray() {
	var found activities.Astray
	if err := listing.start(s.ctx, TaskQueue, act.SweepAstray, nil).Get(s.ctx, &found); err != nil {
		s.tell("rotations of credentials that are not applied could not be looked at: %s", cause(err))
		return
	}
	s.report.Add(found.Findings...)
	s.report.Saw(found.Steps)
	if found.More {
		s.tell("there are more rotations of credentials that are not applied than were looked at: keyturn status")
	}
}

// signers looks for those who may not sign for long any more.
func (s *sweep) signers() {
	var findings []policy.Finding
	if err := asking.start(s.ctx, TaskQueue, act.SweepSigners, nil).Get(s.ctx, &findings); err != nil {
		s.tell("signers could not be looked at: %s", cause(err))
		return
	}
	s.report.Add(findings...)
}

// undeclared scans the accounts that the worker configuration asks for, by a child of its own, whose history may be
// long.
func (s *sweep) undeclared() {
	var accounts, left []string
	for _, name := range workflow.DeterministicKeys(s.accounts) {
		switch a := s.accounts[name]; {
		case a.Scan:
			accounts = append(accounts, name)
		case a.CanList:
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		s.tell("not scanned for keys that nobody declared: account %s; set scan: true there in the worker configuration", strings.Join(left, ", "))
	}
	if len(accounts) == 0 {
		return
	}
	var report ScanReport
	ctx := workflow.WithChildOptions(s.ctx, workflow.ChildWorkflowOptions{
		WorkflowID: ScanID + "/" + workflow.GetInfo(s.ctx).WorkflowExecution.ID, TaskQueue: TaskQueue, StaticSummary: "scan of issuer accounts for a sweep",
	})
	if err := workflow.ExecuteChildWorkflow(ctx, Scan, ScanInput{Accounts: accounts, ByName: true, Forsaken: true}).Get(ctx, &report); err != nil {
		s.tell("accounts could not be scanned: %s", cause(err))
		return
	}
	for _, a := range report.Accounts {
		if a.Problem != "" {
			s.tell("account %s could not be scanned to its end: %s", a.Account, a.Problem)
		}
	}
	for _, k := range report.Keys {
		if f, ok := policy.OfScan(k); ok {
			s.report.Add(f)
		}
	}
	if report.Pages > 1 {
		s.tell("there are more keys that nobody declared than are listed here: keyturn inventory scan")
	}
}

// takeUp begins a run for each retired key that may be taken away now, but for an approval. It is a rotation's run,
// so that Temporal sees to it that there is one at a time; Sweep does not wait for it, and its end ends none.
func (s *sweep) takeUp() {
	own, _ := workflow.NewDisconnectedContext(s.ctx)
	for i, d := range s.debts {
		if i == mostTakenUp {
			s.tell("taken up by the next sweeps: %s", policy.Counted(len(s.debts)-mostTakenUp, "more retired key"))
			return
		}
		ctx := workflow.WithChildOptions(own, workflow.ChildWorkflowOptions{
			WorkflowID: WorkflowID(d.Credential), TaskQueue: TaskQueue, ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
			StaticSummary: "end of a retired key of " + clip(d.Credential),
			StaticDetails: "The retired key " + clip(d.KeyID) + " was left alive. This run opens the revoke gate for it again.",
		})
		in := RotationInput{Credential: d.Credential, Settle: d.KeyID, Reason: "a retired key was left alive", RequestedBy: "sweep"}
		err := workflow.ExecuteChildWorkflow(ctx, Rotation, in).GetChildWorkflowExecution().Get(ctx, nil)
		var running *temporal.ChildWorkflowExecutionAlreadyStartedError
		switch {
		case errors.As(err, &running): // somebody was faster
		case err != nil:
			s.tell("the retired key of %s could not be taken up: %s", d.Credential, cause(err))
		default:
			s.report.TakenUp = append(s.report.TakenUp, d.Credential)
		}
	}
}

// announce tells people of what the sweep before did not find, and once a week again of what is there still.
func (s *sweep) announce() {
	var before policy.SweepReport
	if err := listing.start(s.ctx, TaskQueue, act.LatestSweep, nil).Get(s.ctx, &before); err != nil {
		s.tell("what the sweep before found is not known, so that all findings count as new: %s", cause(err))
	}
	fresh := s.report.Since(before)
	if s.report.New+s.report.Again == 0 {
		return
	}
	input := activities.AnnounceInput{
		Sweep: workflow.GetInfo(s.ctx).WorkflowExecution.RunID, At: workflow.Now(s.ctx), Findings: fresh[:min(len(fresh), announced)], All: s.report.New + s.report.Again,
	}
	if err := notifying.start(s.ctx, TaskQueue, act.Announce, input).Get(s.ctx, nil); err != nil {
		var told []string
		var failed *temporal.ApplicationError
		if errors.As(err, &failed) && failed.HasDetails() {
			_ = failed.Details(&told) // without them, nobody heard of any
		}
		s.report.Untold(before, told)
		s.tell("people could not be told of new findings; the next sweep tells them: %s", cause(err))
	}
}

// announced is how many findings an announcement is handed.
const announced = 50

// SweepMarkdown is the report as the Web UI shows it.
func SweepMarkdown(r policy.SweepReport) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("### Sweep: %s\n", r.Summary())
	for _, kind := range policy.FindingKinds {
		if n := r.Counts[kind]; n > 0 {
			line("- **%s:** %d", kind, n)
		}
	}
	if len(r.TakenUp) > 0 {
		line("\nThe revoke gate is open again for %s.", text(strings.Join(r.TakenUp, ", ")))
	}
	for _, n := range r.Notes {
		line("\n> %s", text(n))
	}
	if len(r.Findings) == 0 {
		return b.String()
	}
	for i, f := range r.Findings {
		if i == shownRows {
			line("\nand more: keyturn sweep")
			break
		}
		line("\n**%s** %s of %s, since %s\n", f.Kind, text(f.Credential), text(f.Owner), f.Since.UTC().Format(time.DateTime))
		line("- %s", text(f.Message))
		line("- **what to do:** %s", text(f.Do))
	}
	return b.String()
}
