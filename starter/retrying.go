package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/retried"
)

// retrying is an activity whose last attempt failed, and that is tried again.
type retrying struct {
	Activity string `json:"activity"`
	// Attempt is the one that runs or is due, Failure what the one before it said, in one line.
	Attempt int    `json:"attempt"`
	Failure string `json:"failure"`
}

// retryingIn is the one of these activities that was tried most; nil when none has failed.
func retryingIn(pending []*workflowpb.PendingActivityInfo) *retrying {
	step, failing := retried.MostTried(pending)
	if !failing {
		return nil
	}
	return &retrying{Activity: plain(step.Activity), Attempt: step.Attempts, Failure: oneLine(step.Failure)}
}

// watchedBy is what the last look of a rotation's watch found, which is asked again and again; empty when there was none.
func watchedBy(pending []*workflowpb.PendingActivityInfo) string {
	for _, p := range pending {
		if last := p.GetLastFailure(); p.GetActivityType().GetName() == "Watch" && last.GetApplicationFailureInfo().GetType() == retried.NotYet {
			return oneLine(last.GetMessage())
		}
	}
	return ""
}

func (r *retrying) String() string {
	return fmt.Sprintf("%s, which is tried again (attempt %d): %s", r.Activity, r.Attempt, r.Failure)
}

// oneLine is text from outside in one line.
func oneLine(text string) string { return plain(strings.Join(strings.Fields(text), " ")) }

// noWorker warns of what has been begun on a task queue that nobody polls; "" when somebody does.
func noWorker(ctx context.Context, c client.Client, queue string) string {
	if !namespace.NobodyPolls(ctx, c, queue) {
		return ""
	}
	return "no worker polls task queue " + queue + ": it waits until one is started (keyturn-worker --config FILE), and loses nothing; see: keyturn doctor"
}

// tellOfSilence tells of what is asked of a run, and of what is waited for, that no worker polls who could answer: it comes at once,
// while the answer would be waited for in vain. Nothing is told when somebody polls.
func tellOfSilence(ctx context.Context, c client.Client, queue string, tell func(string)) {
	if namespace.NobodyPolls(ctx, c, queue) {
		tell("no worker polls task queue " + queue + ": there is no answer until one is started (keyturn-worker --config FILE); see: keyturn doctor")
	}
}

// tellOfSilentRun is tellOfSilence of a run that is asked, whose tasks have a queue of their own in an emergency. Of one that cannot be
// looked up it tells nothing: whoever asks it hears why.
func tellOfSilentRun(ctx context.Context, c client.Client, id string, tell func(string)) {
	if described, err := c.DescribeWorkflowExecution(ctx, id, ""); err == nil {
		tellOfSilence(ctx, c, described.GetWorkflowExecutionInfo().GetTaskQueue(), tell)
	}
}

// lookForFailures is how often it is asked what keeps failing while somebody waits.
const lookForFailures = time.Second

// await waits for the result of a workflow, tells at once what keeps failing meanwhile, each failure once, and explains a wait
// that ended without an answer.
func await(ctx context.Context, c client.Client, run client.WorkflowRun, into any, doing string, tell func(string)) error {
	asking, stop := context.WithCancel(ctx)
	last := make(chan *retrying)
	go func() { last <- tellFailures(asking, c, run, tell) }()
	err := run.Get(ctx, into)
	stop()
	failing := <-last
	if err != nil {
		return noAnswer(doing, failing, err)
	}
	return nil
}

// tellFailures tells what keeps failing until the context ends, and returns the last of it.
func tellFailures(ctx context.Context, c client.Client, run client.WorkflowRun, tell func(string)) (last *retrying) {
	look := time.NewTicker(lookForFailures)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return last
		case <-look.C:
		}
		described, err := c.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
		if err != nil {
			continue // whoever waits hears of it
		}
		now := retryingIn(described.GetPendingActivities())
		if now == nil {
			continue
		}
		if last == nil || now.Activity != last.Activity || now.Failure != last.Failure {
			tell("failing is " + now.String())
		}
		last = now
	}
}
