package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/workflows"
)

func newStatus(t *terminal) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status [CREDENTIAL]", Short: "Says where rotations stand, what they wait for, and who can unblock them",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("name one credential, or none for all that run")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, _, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case len(args) == 0 && watch:
				return usage("name the credential to watch")
			case len(args) == 0:
				return t.listRunning(ctx, c)
			case watch:
				return t.watch(ctx, c, args[0])
			}
			s, err := status(ctx, c, args[0])
			if err != nil {
				return err
			}
			return t.showStatus(s)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until the rotation ends")
	return cmd
}

func (t *terminal) showStatus(s workflows.Status) error {
	return t.show(s, func(w io.Writer) {
		t.printStatus(w, s)
		if s.Report != nil {
			fmt.Fprintln(w)
			t.printReport(w, *s.Report)
		}
	})
}

// status asks the rotation itself. A run that has ended is answered by its result when no worker lives.
func status(ctx context.Context, c client.Client, credential string) (workflows.Status, error) {
	var s workflows.Status
	ask, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	value, err := c.QueryWorkflow(ask, workflows.WorkflowID(credential), "", workflows.StatusName)
	if err == nil {
		return s, value.Get(&s)
	}
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return s, exit(exitNotFound, fmt.Errorf("no rotation of %q is known; begin one with: starter rotate %s -f FILE", credential, credential))
	}
	return withoutWorker(ctx, c, credential, err)
}

func withoutWorker(ctx context.Context, c client.Client, credential string, asked error) (workflows.Status, error) {
	s := workflows.Status{Credential: credential}
	described, err := c.DescribeWorkflowExecution(ctx, workflows.WorkflowID(credential), "")
	if err != nil {
		return s, fmt.Errorf("describing the rotation of %q: %w", credential, err)
	}
	info := described.GetWorkflowExecutionInfo()
	if info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return s, exit(exitTimedOut, fmt.Errorf("the rotation of %s is running, and no worker answers for it: %w; start a worker, nothing is lost", credential, asked))
	}
	report, err := result(ctx, c.GetWorkflow(ctx, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()))
	if err != nil {
		return s, fmt.Errorf("the rotation of %s ended as %s without a report: %w", credential, info.GetStatus(), err)
	}
	s.Phase, s.Since, s.Doing, s.Report = workflows.PhaseEnded, report.EndedAt, report.Message, &report
	s.Rotation, s.Retiring, s.Incoming, s.Timeline = report.Rotation, report.Retiring, report.Incoming, report.Timeline
	return s, nil
}

// watchEvery is how often a watched rotation is asked.
const watchEvery = time.Second

// watch shows the rotation until it ends: in place on a terminal, else what is new, line by line.
func (t *terminal) watch(ctx context.Context, c client.Client, credential string) error {
	shown := 0
	var before workflows.Status
	for {
		s, err := status(ctx, c, credential)
		if err != nil {
			return err
		}
		switch {
		case t.output != "table":
			if s.Phase != before.Phase || s.WaitsFor != before.WaitsFor || len(s.Timeline) != len(before.Timeline) {
				if err := t.show(s, nil); err != nil {
					return err
				}
			}
		case t.interactive():
			fmt.Fprint(t.out, "\x1b[H\x1b[2J")
			t.printStatus(t.out, s)
		default:
			if s.Phase != before.Phase || s.WaitsFor != before.WaitsFor {
				columns(t.out, []string{clock(time.Now()), string(s.Phase), s.Doing, s.WaitsFor})
			}
			for ; shown < len(s.Timeline); shown++ {
				m := s.Timeline[shown]
				columns(t.out, []string{clock(m.At), string(m.Phase), m.What})
			}
		}
		if s.Report != nil {
			if t.output == "table" {
				fmt.Fprintln(t.out)
				t.printReport(t.out, *s.Report)
			}
			return exit(outcomeCode(s.Report.Outcome), nil)
		}
		before = s
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchEvery):
		}
	}
}

// listRunning shows every rotation that runs now.
func (t *terminal) listRunning(ctx context.Context, c client.Client) error {
	type row struct {
		Credential string          `json:"credential"`
		Phase      workflows.Phase `json:"phase"`
		Owner      string          `json:"owner,omitempty"`
		Since      time.Time       `json:"since"`
		Run        string          `json:"run"`
	}
	rows := []row{}
	var page []byte
	for {
		answer, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query:         "WorkflowType = 'Rotation' AND ExecutionStatus = 'Running' ORDER BY StartTime",
			NextPageToken: page,
		})
		if err != nil {
			// A server without ordering by start time lists newest first.
			answer, err = c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
				Query: "WorkflowType = 'Rotation' AND ExecutionStatus = 'Running'", NextPageToken: page,
			})
		}
		if err != nil {
			return fmt.Errorf("listing rotations: %w", err)
		}
		for _, e := range answer.GetExecutions() {
			fields := e.GetSearchAttributes().GetIndexedFields()
			rows = append(rows, row{
				Credential: decode(fields[workflows.AttributeCredential.GetName()]), Owner: decode(fields[workflows.AttributeOwner.GetName()]),
				Phase: workflows.Phase(decode(fields[workflows.AttributePhase.GetName()])),
				Since: e.GetStartTime().AsTime(), Run: e.GetExecution().GetRunId(),
			})
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	return t.show(rows, func(w io.Writer) {
		if len(rows) == 0 {
			fmt.Fprintln(w, "No rotation is running.")
			return
		}
		cells := [][]string{{"CREDENTIAL", "PHASE", "OWNER", "RUNNING SINCE"}}
		for _, r := range rows {
			cells = append(cells, []string{r.Credential, string(r.Phase), r.Owner, clock(r.Since)})
		}
		columns(w, cells...)
	})
}
