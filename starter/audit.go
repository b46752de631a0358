package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func newAudit(t *terminal) *cobra.Command {
	var rotation string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "audit CREDENTIAL", Short: "Tells the record of a credential's rotations: who approved, on what evidence, when the old key died", Args: oneCredential,
		Long: `Tells the record of a credential's rotations. First, for the last one or that of --rotation: who approved, and whether that is
proved, on what evidence, when the retiring key was disabled, destroyed and seen refused, the outcome, and what is still owed.
Then each event, newest last.

It is read from the histories that Temporal still has, and, where a worker answers, from the audit file of that worker. Each event
says from which: a worker writes its file itself, while a history is worth as much as who may write to the namespace. So does what a
workflow told; on whose approvals a worker acted by its own proof is said with the key that it ended. What could not be read is said
at the end. It changes nothing.

Exit code 4: nothing is known of the credential, or of the rotation.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, ns, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			found, err := audited(ctx, c, ns, workflows.AuditInput{Credential: args[0], Rotation: rotation}, timeout)
			if err != nil {
				return err
			}
			return t.show(found, func(w io.Writer) { t.printRecord(w, found) })
		},
	}
	cmd.Flags().StringVar(&rotation, "rotation", "", "of this rotation alone, by its ID")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for a worker's answer")
	return cmd
}

// mostRuns bounds how many runs are read: the newest.
const mostRuns = 200

// audited gathers the record.
func audited(ctx context.Context, c client.Client, ns string, of workflows.AuditInput, timeout time.Duration) (record, error) {
	r := record{Credential: of.Credential, Unread: []string{}}
	unread := func(format string, args ...any) { r.Unread = append(r.Unread, plain(fmt.Sprintf(format, args...))) }
	listed, more, err := runsOf(ctx, c, of)
	if err != nil {
		return r, err
	}
	if more {
		unread("the histories of runs before the newest %d; name a rotation with --rotation", mostRuns)
	}
	var runs []*pastRun
	for _, info := range listed {
		run, err := readRun(ctx, c, of.Credential, info)
		if err != nil {
			unread("the history of run %s: %v", info.GetExecution().GetRunId(), err)
			continue
		}
		if of.Rotation != "" && of.Rotation != run.Rotation {
			continue // the index does not always say of which one a run is
		}
		runs = append(runs, run)
		if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			unread("what run %s saw since its last step: that comes with its next one", run.Run)
		}
	}
	answer, why := askFile(ctx, c, of, timeout)
	r.Unread = append(r.Unread, notRead(answer, why)...)
	r.Events = merge(answer.Events, runs)
	r.Rotations = summarize(r.Events, runs)
	if len(r.Events) == 0 && len(r.Rotations) == 0 {
		return r, exit(exitNotFound, fmt.Errorf("nothing is known of %s; not read: %s", cmp.Or(soughtRotation(of.Rotation), fmt.Sprintf("%q", of.Credential)), cmp.Or(strings.Join(r.Unread, "; "), "nothing")))
	}
	if without := gone(r.Events, runs); len(without) > 0 {
		unread("the histories of %s, which are not there any more, such as %s: told from the audit file alone", policy.Counted(len(without), "rotation"), without[len(without)-1])
	}
	if kept, err := namespace.Retention(ctx, c, ns); err == nil && !answer.Recorded {
		unread("whatever ended longer than %s ago: Temporal keeps no history for longer", kept)
	}
	return r, nil
}

func soughtRotation(rotation string) string {
	if rotation == "" {
		return ""
	}
	return fmt.Sprintf("rotation %q; leave --rotation out to see which there are", rotation)
}

// notRead says what the answer of a worker leaves out; why is set when there is none.
func notRead(answer workflows.AuditAnswer, why string) (unread []string) {
	add := func(format string, args ...any) { unread = append(unread, plain(fmt.Sprintf(format, args...))) }
	if why != "" {
		add("the audit files of the workers: %s", why)
		return unread
	}
	if !answer.Recorded {
		add("an audit file: the configuration of worker %s, which answered, names none", answer.Worker)
		return unread
	}
	if answer.Problem != "" {
		add("all of the audit file of worker %s: %s", answer.Worker, answer.Problem)
	}
	if answer.Left > 0 {
		add("%d older events of the audit file, for which there is no room; name a rotation with --rotation", answer.Left)
	}
	if answer.Damaged > 0 {
		add("%s of the audit file, damaged: of whom they told nobody knows", policy.Counted(answer.Damaged, "line"))
	}
	if answer.Renamed > 0 {
		add("%s beside the audit file, renamed away", policy.Counted(answer.Renamed, "older file"))
	}
	add("the audit files of other workers than %s, which answered, where they have files of their own", answer.Worker)
	return unread
}

// runsOf lists the runs of a credential's rotations, oldest first, and tells whether there are more than are read.
func runsOf(ctx context.Context, c client.Client, of workflows.AuditInput) (list []*workflowpb.WorkflowExecutionInfo, more bool, err error) {
	id := workflows.WorkflowID(of.Credential)
	add := func(info *workflowpb.WorkflowExecutionInfo) {
		known := slices.ContainsFunc(list, func(i *workflowpb.WorkflowExecutionInfo) bool {
			return i.GetExecution().GetRunId() == info.GetExecution().GetRunId()
		})
		rotation := cmp.Or(info.GetFirstRunId(), info.GetExecution().GetRunId())
		if !known && (of.Rotation == "" || of.Rotation == rotation || info.GetFirstRunId() == "") {
			list = append(list, info)
		}
	}
	latest, err := c.DescribeWorkflowExecution(ctx, id, "")
	var missing *serviceerror.NotFound
	if err != nil && !errors.As(err, &missing) {
		return nil, false, fmt.Errorf("describing the rotation of %q: %w", of.Credential, err)
	}
	if err == nil { // the index may not have it yet
		add(latest.GetWorkflowExecutionInfo())
	}
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(id)
	for page := []byte(nil); ; {
		answer, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowId = '" + quoted + "'", NextPageToken: page})
		if err != nil {
			return nil, false, fmt.Errorf("listing the rotations of %q: %w", of.Credential, err)
		}
		for _, info := range answer.GetExecutions() {
			add(info)
		}
		if page = answer.GetNextPageToken(); len(page) == 0 || len(list) > mostRuns {
			break
		}
	}
	slices.SortFunc(list, func(a, b *workflowpb.WorkflowExecutionInfo) int {
		return a.GetStartTime().AsTime().Compare(b.GetStartTime().AsTime())
	})
	if len(list) > mostRuns {
		return list[len(list)-mostRuns:], true, nil
	}
	return list, false, nil
}

// readRun reads the history of one run.
func readRun(ctx context.Context, c client.Client, credential string, info *workflowpb.WorkflowExecutionInfo) (*pastRun, error) {
	id, run := info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()
	past := newPastRun(credential, info.GetFirstRunId(), run)
	for events := c.GetWorkflowHistory(ctx, id, run, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		event, err := events.Next()
		var missing *serviceerror.NotFound
		if errors.As(err, &missing) {
			return nil, errors.New("it is not there any more")
		}
		if err != nil {
			return nil, err
		}
		past.take(event)
	}
	return past, nil
}

// askFile asks a worker for what its audit file has; why is why none answered.
func askFile(ctx context.Context, c client.Client, of workflows.AuditInput, timeout time.Duration) (answer workflows.AuditAnswer, why string) {
	if namespace.NobodyPolls(ctx, c, workflows.TaskQueue) {
		return answer, "no worker polls; start one, and ask again"
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.AuditID + "/" + of.Credential + "/" + uuid.NewString(), TaskQueue: workflows.TaskQueue,
		WorkflowExecutionTimeout: timeout, StaticSummary: "audit record of " + of.Credential,
	}, workflows.Audit, of)
	if err == nil {
		err = run.Get(ctx, &answer)
	}
	if err != nil {
		return workflows.AuditAnswer{}, oneLine(noAnswer("asking a worker", nil, err).Error())
	}
	return answer, ""
}

// printRecord shows the last rotation as an auditor asks for it, and then every event.
func (t *terminal) printRecord(w io.Writer, r record) {
	if len(r.Rotations) > 0 {
		last := r.Rotations[len(r.Rotations)-1]
		fmt.Fprintf(w, "%s  %s\n", t.bold(plain(r.Credential+": "+cmp.Or(last.Outcome, "its end is not known"))), plain(last.Message))
		columns(w, last.rows()...)
		fmt.Fprintln(w)
	}
	if len(r.Rotations) > 1 {
		rows := [][]string{{"ROTATION", "BEGUN", "OUTCOME"}}
		for _, s := range r.Rotations {
			rows = append(rows, []string{s.Rotation, clock(s.Begun), s.Outcome})
		}
		columns(w, rows...)
		fmt.Fprintln(w)
	}
	rows := [][]string{{"TIME", "EVENT", "TOLD BY", "FROM", "KEY", "DETAIL"}}
	for _, e := range r.Events {
		rows = append(rows, []string{clock(e.Time), string(e.Type), e.Actor, string(e.Source), keyOf(e.Event), detailText(e.Event)})
	}
	columns(w, rows...)
	if len(r.Unread) > 0 {
		fmt.Fprintln(w)
	}
	for _, u := range r.Unread {
		fmt.Fprintln(w, "not read: "+plain(u))
	}
}

// rows are the names and values of what an auditor asks first.
func (s summary) rows() [][]string {
	rows := [][]string{{"rotation", s.Rotation}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	switch {
	case s.RequestedBy != "" && s.Why != "":
		add("asked for by", s.RequestedBy+unproved+": "+s.Why)
	case s.RequestedBy != "":
		add("asked for by", s.RequestedBy+unproved)
	default:
		add("asked for", s.Why)
	}
	if s.Ends != "" {
		add("was to end", "key "+s.Ends+", and nothing else")
	}
	add("begun", clock(s.Begun))
	add("ended", clock(s.Ended))
	for _, id := range s.Incidents {
		add("incident", id+"; see: keyturn incident show "+id)
	}
	for _, d := range s.Decisions {
		add(d.verb(), d.text())
	}
	if !slices.ContainsFunc(s.Decisions, decided.approves) && len(s.Incidents) == 0 {
		add("approved by", "nobody, as far as it is known")
	}
	if e := s.Evidence; e == nil {
		add("evidence", "none, as far as it is known")
	} else {
		add("evidence", cmp.Or(e.Says, "what it said is not known")+" (digest "+e.Digest+")")
	}
	for _, k := range s.Keys {
		add(strings.TrimSpace(string(k.Role)+" key"), k.text())
	}
	add("still owed", cmp.Or(strings.Join(s.Debt, ", "), "nothing, as far as it is known"))
	return rows
}

func (d decided) approves() bool { return d.Accepted && d.Action == "approve" }

func (d decided) verb() string {
	switch {
	case d.approves():
		return "approved by"
	case d.Accepted:
		return d.Action + " by"
	}
	return "not taken"
}

func (d decided) text() string {
	proof := "unverified"
	switch {
	case d.Proved:
		proof = "by a signature that the worker verified which acted on it"
	case d.Signed:
		proof = "by a signature, as the run says"
	}
	if len(d.Groups) > 0 {
		proof += ", of " + strings.Join(d.Groups, ", ")
	}
	text := d.By + " (" + proof + ") " + clock(d.At)
	if !d.Accepted {
		text = d.Action + " by " + text
	}
	if d.Gate != "" {
		text += ", " + d.Gate + " gate"
	}
	if d.Why != "" {
		text += ": " + d.Why
	}
	if !d.Accepted && d.Verdict != "" {
		text += "; " + d.Verdict
	}
	return text
}

// text is what became of a key, in the order of a key's life.
func (k keyRecord) text() string {
	var parts []string
	add := func(what string, m *moment) {
		if m != nil {
			parts = append(parts, fmt.Sprintf("%s %s (%s)", what, clock(m.At), m.Source))
		}
	}
	add("issued", k.Issued)
	add("promoted", k.Promoted)
	add("disabled", k.Disabled)
	add("enabled again", k.Enabled)
	add("destroyed", k.Destroyed)
	add("seen refused", k.Refused)
	text := k.Key + ": " + cmp.Or(strings.Join(parts, ", "), "nothing was done to it, as far as it is known")
	if k.Approved != "" {
		text += "; by the worker on the approval of " + k.Approved
	}
	if k.Probe != "" {
		text += "; " + k.Probe
	}
	return text
}

// detailText is the detail of an event on one line, without the key, which has a column.
func detailText(e audit.Event) string {
	var parts []string
	for name, value := range e.Detail {
		if value != "" && name != "key" {
			parts = append(parts, name+"="+value)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}
