package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/workflows"
)

// standing is where a rotation stands: what it says itself, and what Temporal knows beside that.
type standing struct {
	workflows.Status
	// Ended is set when Temporal ended the run, so that there is no report.
	Ended *ending `json:"ended,omitempty"`
	// Retrying is what keeps failing now, and is tried again.
	Retrying *retrying `json:"retrying,omitempty"`
	// Watch is what the last look of the watch found, such as how many requests failed; empty when none is told.
	Watch string `json:"watch,omitempty"`
	// pending are the activities that run; unheard: no worker answered for the run.
	pending []*workflowpb.PendingActivityInfo
	unheard bool
}

// over tells whether nothing is to come any more.
func (s standing) over() bool { return s.Report != nil || s.Ended != nil }

// onlyEnds says which key a run is to end that is no rotation; empty for a rotation.
func (s standing) onlyEnds() string {
	if s.Ends == "" {
		return ""
	}
	return "key " + s.Ends + ", and does nothing else"
}

// verdict is the exit code of having looked: a rotation that needs a human is no success.
func (s standing) verdict() error {
	if s.Ended != nil || s.Report != nil && s.Report.Outcome == workflows.Failed {
		return exit(exitFailed, nil)
	}
	return nil
}

// tellStatus shows where a rotation stands, or how it ended.
func (t *terminal) tellStatus(ctx context.Context, c client.Client, credential string) error {
	s, err := status(ctx, c, credential, t.warn)
	if err != nil {
		return err
	}
	if s.over() {
		s.lookAfterTheEnd(ctx, c, t.warn)
	} else {
		s.sayKept(ctx, c, specOf(ctx, c, credential))
	}
	if err := t.showStatus(s); err != nil {
		return err
	}
	return s.verdict()
}

func (t *terminal) showStatus(s standing) error {
	return t.show(s, func(w io.Writer) {
		switch {
		case s.Ended != nil:
			t.printEnded(w, s)
		case s.Report != nil:
			t.printReported(w, s)
		default:
			t.printStatus(w, s)
		}
	})
}

// status asks Temporal how the run stands, and then the rotation itself. A run that has ended is answered by its result when no
// worker lives; for one that runs the error stands beside what Temporal knows. That no worker polls is told first, unless it is untold.
func status(ctx context.Context, c client.Client, credential string, tell func(string)) (standing, error) {
	s := standing{Status: workflows.Status{Credential: credential}}
	id := workflows.WorkflowID(credential)
	described, err := c.DescribeWorkflowExecution(ctx, id, "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return s, exit(exitNotFound, fmt.Errorf("no rotation of %q is known; begin one with: keyturn rotate %s -f FILE", credential, credential))
	}
	if err != nil {
		return s, fmt.Errorf("describing the rotation of %q: %w", credential, err)
	}
	info := described.GetWorkflowExecutionInfo()
	s.pending = described.GetPendingActivities()
	s.Retrying, s.Watch = retryingIn(s.pending), watchedBy(s.pending)
	run := info.GetExecution().GetRunId()
	if tell != nil {
		tellOfSilence(ctx, c, info.GetTaskQueue(), tell)
	}
	asked := s.ask(ctx, c, id, run)
	switch running := info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING; {
	case running && asked != nil:
		return s, silent(credential, asked)
	case running, s.Report != nil:
		return s, nil
	}
	report, err := result(ctx, c.GetWorkflow(ctx, id, run))
	switch {
	case err == nil:
		s.Phase, s.Since, s.Doing, s.Report = workflows.PhaseEnded, report.EndedAt, report.Message, &report
		s.Rotation, s.Retiring, s.Incoming, s.Timeline = report.Rotation, report.Retiring, report.Incoming, report.Timeline
	case trouble(err) != "":
		return s, err
	default:
		s.endWithoutReport(ctx, c, info)
	}
	return s, nil
}

// untold is for who told of a missing worker already, or says by itself that nobody answers.
var untold func(string)

// askFor is how long a worker may take to answer for a rotation.
const askFor = 10 * time.Second

// ask asks the rotation itself.
func (s *standing) ask(ctx context.Context, c client.Client, id, run string) error {
	ask, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	value, err := c.QueryWorkflow(ask, id, run, workflows.StatusName)
	s.unheard = trouble(err) != ""
	if err != nil {
		return err
	}
	return value.Get(&s.Status)
}

// silent says of a rotation that runs that nobody answers for it, in words that do not come from the network.
func silent(credential string, asked error) error {
	why := "it cannot be asked yet: " + plain(asked.Error())
	switch said := trouble(asked); said {
	case "":
	case troubleLate:
		why = "no worker answers for it; start one, nothing is lost"
	default:
		why = said + "; nothing is lost"
	}
	return exit(exitTimedOut, fmt.Errorf("the rotation of %s is running, and %s", credential, why))
}
