package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

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
		&cobra.Command{
			Use: "show ID", Short: "Shows an incident: which exposed key is dead, which is not, what is owed, and its timeline",
			Args: oneIncident,
			RunE: func(cmd *cobra.Command, args []string) error { return t.showIncident(cmd.Context(), args[0]) },
		},
		newUnfreeze(t),
	)
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
	found, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: ns, PageSize: mostIncidents, Query: "WorkflowType = 'Incident'"})
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
				i.Incident, clock(i.Since), cmp.Or(i.Problem, string(i.Outcome), "goes on"), fmt.Sprint(len(i.Credentials)), fmt.Sprintf("%d of %d", dead, exposed), took(i.IncidentStatus), i.Reason,
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

func (t *terminal) showIncident(ctx context.Context, id string) error {
	id = incidentID(id)
	c, _, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	described, err := c.DescribeWorkflowExecution(ctx, id, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return exit(exitNotFound, fmt.Errorf("no incident %q is known; see them with: keyturn incident list", id))
	}
	if err != nil {
		return fmt.Errorf("looking for %s: %w", id, err)
	}
	info := described.GetWorkflowExecutionInfo()
	status, err := incidentStatus(ctx, c, id, info.GetExecution().GetRunId(), info.GetStatus())
	if err != nil {
		return err
	}
	return t.show(status, func(w io.Writer) { printIncident(w, status) })
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
	default:
		return status, exit(exitFailed, fmt.Errorf("%s was ended (%s) before it had seen its keys dead: the emergencies that it began go on; see them with: keyturn status", id, strings.ToLower(state.String())))
	}
	if err != nil {
		return status, noAnswer(ctx, "asking "+id+" how it stands", err)
	}
	return status, nil
}

// printIncident shows how an incident ended, what is not contained first.
func printIncident(w io.Writer, s workflows.IncidentStatus) {
	fmt.Fprintln(w, plain(s.Message))
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
		rows = append(rows, []string{plain(m.Credential), plain(strings.Join(m.Exposed, ", ")), m.State, strings.Join(dead, ", "), plain(m.Current.KeyID)})
	}
	columns(w, rows...)
	printMisuse(w, s)
	for _, line := range s.Timeline {
		fmt.Fprintf(w, "%s  %s\n", line.At.UTC().Format(time.TimeOnly), plain(line.What))
	}
}
