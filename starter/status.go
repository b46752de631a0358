package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
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
dumb, it writes a line for whatever is new; with -o json or yaml a document for each change. While no worker or no server
answers it goes on asking; when nobody looks, for 10 minutes.

A run that Temporal ended (terminated, timed out) is said to be so, with what is true of both keys now and how to go on.
Exit code 1: it ended so, or the rotation failed.`,
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
			return t.tellStatus(ctx, c, args[0])
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until the rotation ends")
	return cmd
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
	return rotations, eachRotation(ctx, c, "'Running'", func(e *workflowpb.WorkflowExecutionInfo) {
		r := runningAs(e)
		rotations[r.Credential] = r
	})
}

// cutOffRotations are the latest that Temporal ended, by credential.
func cutOffRotations(ctx context.Context, c client.Client) (map[string]cutOff, error) {
	rotations := map[string]cutOff{}
	return rotations, eachRotation(ctx, c, "'Terminated', 'TimedOut', 'Canceled'", func(e *workflowpb.WorkflowExecutionInfo) {
		credential := runningAs(e).Credential
		if at := e.GetCloseTime().AsTime(); at.After(rotations[credential].At) {
			rotations[credential] = cutOff{As: endings[e.GetStatus()], At: at, began: e.GetStartTime().AsTime()}
		}
	})
}

// eachRotation goes through the rotations of these statuses.
func eachRotation(ctx context.Context, c client.Client, statuses string, do func(*workflowpb.WorkflowExecutionInfo)) error {
	for page := []byte(nil); ; {
		answer, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: "WorkflowType IN ('Rotation', 'EmergencyRotation') AND ExecutionStatus IN (" + statuses + ")", NextPageToken: page,
		})
		if err != nil {
			return fmt.Errorf("listing rotations: %w", err)
		}
		for _, e := range answer.GetExecutions() {
			do(e)
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return nil
		}
	}
}

// runningAs is a rotation as visibility has it. Its credential is that of its ID: one that was begun in the Web UI has no search
// attribute before its first task.
func runningAs(e *workflowpb.WorkflowExecutionInfo) runningRotation {
	fields := e.GetSearchAttributes().GetIndexedFields()
	return runningRotation{
		Credential: strings.TrimPrefix(e.GetExecution().GetWorkflowId(), workflows.WorkflowID("")),
		Owner:      decode(fields[workflows.AttributeOwner.GetName()]),
		Phase:      workflows.Phase(decode(fields[workflows.AttributePhase.GetName()])),
		Since:      e.GetStartTime().AsTime(), Run: e.GetExecution().GetRunId(),
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
