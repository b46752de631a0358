package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/workflows"
)

func newStatus(t *terminal) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status [CREDENTIAL]", Short: "Says where rotations stand, what they wait for, and who can unblock them",
		Long: `Says where rotations stand, what they wait for, and who can unblock them.

With --watch it goes on until the rotation ends, and ends with its exit code. On a terminal it draws the run: its phases, its
waves, what became of both keys, the errors against their budget, and how much time is left. Elsewhere, and where TERM is
dumb, it writes a line for whatever is new; with -o json or yaml a document for each change. While no worker answers it goes on
asking; when nobody looks, for 10 minutes.`,
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
		return s, exit(exitNotFound, fmt.Errorf("no rotation of %q is known; begin one with: keyturn rotate %s -f FILE", credential, credential))
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

// runningRotation is a rotation that runs now, as visibility has it.
type runningRotation struct {
	Credential string          `json:"credential"`
	Phase      workflows.Phase `json:"phase"`
	Owner      string          `json:"owner,omitempty"`
	Since      time.Time       `json:"since"`
	Run        string          `json:"run"`
}

// runningRotations lists those that run now, by credential.
func runningRotations(ctx context.Context, c client.Client) (map[string]runningRotation, error) {
	rotations := map[string]runningRotation{}
	var page []byte
	for {
		answer, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: "WorkflowType IN ('Rotation', 'EmergencyRotation') AND ExecutionStatus = 'Running'", NextPageToken: page,
		})
		if err != nil {
			return nil, fmt.Errorf("listing rotations: %w", err)
		}
		for _, e := range answer.GetExecutions() {
			fields := e.GetSearchAttributes().GetIndexedFields()
			r := runningRotation{
				Credential: decode(fields[workflows.AttributeCredential.GetName()]), Owner: decode(fields[workflows.AttributeOwner.GetName()]),
				Phase: workflows.Phase(decode(fields[workflows.AttributePhase.GetName()])),
				Since: e.GetStartTime().AsTime(), Run: e.GetExecution().GetRunId(),
			}
			rotations[r.Credential] = r
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return rotations, nil
		}
	}
}

// listRunning shows every rotation that runs now, the one that runs longest first.
func (t *terminal) listRunning(ctx context.Context, c client.Client) error {
	rotations, err := runningRotations(ctx, c)
	if err != nil {
		return err
	}
	rows := slices.SortedFunc(maps.Values(rotations), func(a, b runningRotation) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Credential, b.Credential))
	})
	if rows == nil {
		rows = []runningRotation{}
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

// decode reads a search attribute of type Keyword; "" when it is not there.
func decode(p *commonpb.Payload) string {
	var s string
	if p != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(p, &s)
	}
	return s
}
