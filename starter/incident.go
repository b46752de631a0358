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

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/workflows"
)

func newIncident(t *terminal) *cobra.Command {
	cmd := &cobra.Command{Use: "incident", Short: "Shows emergencies: what was exposed, and when it was dead"}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "Shows all incidents that Temporal still knows, the latest first", Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return t.listIncidents(cmd.Context()) },
		},
		newShowIncident(t), newPause(t), newResume(t), newUnfreeze(t), newConfirm(t),
	)
	return cmd
}

func newShowIncident(t *terminal) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "show ID", Short: "Shows an incident: which exposed key is dead, which is not, what is owed, and its timeline", Args: oneIncident,
		RunE: func(cmd *cobra.Command, args []string) error { return t.showIncident(cmd.Context(), args[0], watch) },
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until it has ended, and say what is new")
	return cmd
}

func oneIncident(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("name one incident; see them with: keyturn incident list")
	}
	return nil
}

func newUnfreeze(t *terminal) *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use: "unfreeze ID", Short: "Lets deployments go on, while the incident does, too", Args: oneIncident,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := t.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			id := incidentID(args[0])
			err = c.SignalWorkflow(cmd.Context(), id, "", workflows.UnfreezeName, workflows.Unfreeze{By: as})
			var missing *serviceerror.NotFound
			if errors.As(err, &missing) {
				return exit(exitNotFound, fmt.Errorf("no incident %q goes on: what it had frozen ends by itself", id))
			}
			if err != nil {
				return fmt.Errorf("telling %s: %w", id, err)
			}
			return t.show(map[string]string{"workflow": id}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is asked to let deployments go on; see what became of it with: keyturn incident show %s\n", id, id)
			})
		},
	}
	cmd.Flags().StringVar(&as, "as", me(), "who asks, for the record")
	return cmd
}

// incidentID takes a name with and without its prefix.
func incidentID(name string) string {
	if strings.HasPrefix(name, incident.ID("")) {
		return name
	}
	return incident.ID(name)
}

// listedIncident is one line of the list.
type listedIncident struct {
	workflows.IncidentStatus
	// Problem is why it cannot be said how it stands.
	Problem string `json:"problem,omitempty"`
}

// mostIncidents bounds the list.
const mostIncidents = 200

func (t *terminal) listIncidents(ctx context.Context) error {
	c, ns, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: ns, PageSize: mostIncidents, Query: "WorkflowType = 'Incident' AND ExecutionStatus != 'ContinuedAsNew'"})
	if err != nil {
		return fmt.Errorf("listing incidents: %w", err)
	}
	list := []listedIncident{}
	for _, e := range found.GetExecutions() {
		id := e.GetExecution().GetWorkflowId()
		line := listedIncident{IncidentStatus: workflows.IncidentStatus{Incident: id, Since: e.GetStartTime().AsTime()}}
		if status, err := incidentStatus(ctx, c, id, e.GetExecution().GetRunId(), e.GetStatus()); err != nil {
			line.Problem = err.Error()
		} else {
			line.IncidentStatus = status
		}
		list = append(list, line)
	}
	return t.show(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "No incident is known.")
			return
		}
		rows := [][]string{{"INCIDENT", "BEGUN", "OUTCOME", "CREDENTIALS", "DEAD", "CONTAINED AFTER", "REASON"}}
		for _, i := range list {
			dead, exposed := i.Dead()
			rows = append(rows, []string{
				i.Incident, clock(i.Since), cmp.Or(i.Problem, string(i.Outcome), map[bool]string{true: "paused"}[i.Paused != nil], "goes on") + map[bool]string{true: " (drill)"}[i.Drill], fmt.Sprint(len(i.Credentials)), fmt.Sprintf("%d of %d", dead, exposed), took(i.IncidentStatus), i.Reason,
			})
		}
		columns(w, rows...)
	})
}

// took is how long it was until the last exposed key was dead; empty while one may be alive.
func took(s workflows.IncidentStatus) string {
	if dead, exposed := s.Dead(); s.ContainedAt.IsZero() || dead < exposed {
		return ""
	}
	return s.ContainedAt.Sub(s.Since).Round(time.Second).String()
}

func (t *terminal) showIncident(ctx context.Context, id string, watch bool) error {
	id = incidentID(id)
	c, _, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	status, run, err := findIncident(ctx, c, id, t.warn)
	if err == nil && watch {
		status, err = t.followIncident(ctx, c, id, run)
	}
	if err != nil {
		return err
	}
	shown := reviewedIncident{status, reviewOf(ctx, c, id)}
	err = t.show(shown, func(w io.Writer) {
		printIncident(w, status)
		if line := reviewLine(status, shown.Review); line != "" {
			fmt.Fprintln(w, line)
		}
	})
	if err == nil && watch {
		err = endOf(status)
	}
	return err
}

// endOf is the exit code of who waited for an incident's end.
func endOf(status workflows.IncidentStatus) error {
	switch status.Outcome {
	case workflows.Contained, workflows.ContainedWithDebt:
		return nil
	case workflows.Refused:
		return exit(exitRefused, nil)
	}
	return exit(exitFailed, nil)
}

// reviewedIncident is an incident with its review; without one when there is none.
type reviewedIncident struct {
	workflows.IncidentStatus
	Review *workflows.Reviewed `json:"review,omitempty"`
}

// findIncident asks an incident how it stands, and returns its run. That no worker polls is told where one has to answer.
func findIncident(ctx context.Context, c client.Client, id string, tell func(string)) (status workflows.IncidentStatus, run string, err error) {
	described, err := c.DescribeWorkflowExecution(ctx, id, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return status, "", exit(exitNotFound, fmt.Errorf("no incident %q is known; see them with: keyturn incident list", id))
	}
	if err != nil {
		return status, "", fmt.Errorf("looking for %s: %w", id, err)
	}
	info := described.GetWorkflowExecutionInfo()
	run = info.GetExecution().GetRunId()
	if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		tellOfSilence(ctx, c, info.GetTaskQueue(), tell)
	}
	status, err = incidentStatus(ctx, c, id, run, info.GetStatus())
	return status, run, err
}

// incidentStatus is what an incident says of itself: its result, once it has ended, for which no worker is needed.
func incidentStatus(ctx context.Context, c client.Client, id, run string, state enumspb.WorkflowExecutionStatus) (status workflows.IncidentStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch state {
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		err = c.GetWorkflow(ctx, id, run).Get(ctx, &status)
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		value, asked := c.QueryWorkflow(ctx, id, run, workflows.StatusName)
		if err = asked; err == nil {
			err = value.Get(&status)
		}
	case enumspb.WORKFLOW_EXECUTION_STATUS_FAILED: // as one does whose input cannot be read, and no other
		var why *temporal.ApplicationError
		if err = c.GetWorkflow(ctx, id, run).Get(ctx, &status); errors.As(err, &why) {
			return status, exit(exitFailed, fmt.Errorf("%s could not begin, and touched nothing: %s", id, why.Message()))
		}
	default:
		return status, exit(exitFailed, fmt.Errorf("%s was ended (%s) before it had seen its keys dead: the emergencies that it began go on; see them with: keyturn status", id, strings.ToLower(state.String())))
	}
	if err != nil {
		return status, noAnswer("asking "+id+" how it stands", nil, err)
	}
	return status, nil
}

// printIncident shows how an incident ended, what is not contained first.
func printIncident(w io.Writer, s workflows.IncidentStatus) {
	fmt.Fprintln(w, map[bool]string{true: "DRILL: "}[s.Drill]+plain(cmp.Or(s.Message, s.Progress(time.Now()), "It has begun.")))
	if line := s.PauseLine(); line != "" {
		fmt.Fprintln(w, plain(line))
	}
	rows := [][]string{{"CREDENTIAL", "EXPOSED", "STATE", "DEAD AFTER", "CURRENT"}}
	for _, m := range s.Credentials {
		var dead []string
		for _, k := range m.Contained {
			if k.Absent {
				dead = append(dead, k.KeyID+" unknown")
				continue
			}
			dead = append(dead, k.KeyID+" "+k.At.Sub(s.Since).Round(time.Second).String())
		}
		rows = append(rows, []string{plain(m.Credential), plain(strings.Join(m.Exposed, ", ")), plain(m.State), plain(strings.Join(dead, ", ")), plain(m.Current.KeyID)})
	}
	columns(w, rows...)
	if owed := s.DebtLines(); len(owed) > 0 {
		fmt.Fprintln(w, "Still owed; keyturn sweep says what to do about each:")
		for _, line := range owed {
			fmt.Fprintf(w, "  %s\n", plain(line))
		}
	}
	printMisuse(w, s)
	for _, line := range s.Timeline {
		fmt.Fprintf(w, "%s  %s\n", line.At.UTC().Format(time.TimeOnly), plain(line.What))
	}
}

// followIncident says on the error output, for people, what is new of an incident, until it has ended.
func (t *terminal) followIncident(ctx context.Context, c client.Client, id, run string) (status workflows.IncidentStatus, err error) {
	ended := make(chan error, 1)
	go func() { ended <- c.GetWorkflow(ctx, id, run).Get(ctx, &status) }()
	every := time.NewTicker(watchEvery)
	defer every.Stop()
	var said saidMoments
	for {
		select {
		case err := <-ended:
			if err != nil {
				return status, noAnswer("waiting for "+id, nil, err)
			}
			said.say(t, status)
			return status, nil
		case <-every.C:
			if now, err := incidentStatus(ctx, c, id, "", enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING); err == nil { // else the next time
				said.say(t, now)
			}
		}
	}
}

// saidMoments is how far an incident was told of.
type saidMoments struct {
	last workflows.IncidentMoment
	dead int
}

// say tells what came since, and how far it is when that is news.
func (m *saidMoments) say(t *terminal, s workflows.IncidentStatus) {
	if t.quiet || t.output != "table" { // programs get the end alone
		return
	}
	news := s.Timeline[slices.Index(s.Timeline, m.last)+1:]
	for _, line := range news {
		fmt.Fprintf(t.err, "%s  %s\n", line.At.UTC().Format(time.TimeOnly), plain(line.What))
		m.last = line
	}
	if dead, _ := s.Dead(); len(s.Credentials) > 1 && s.Outcome == "" && dead != m.dead {
		m.dead = dead
		fmt.Fprintf(t.err, "%s  %s\n", time.Now().UTC().Format(time.TimeOnly), s.Progress(time.Now()))
	}
}
