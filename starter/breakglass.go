package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// reviewBreakGlass shows which approvals by break-glass of a credential nobody has reviewed, and has them reviewed by who signs.
func (t *terminal) reviewBreakGlass(ctx context.Context, credential, sign, comment string, yes bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	c, ns, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	tellOfSilence(ctx, c, workflows.TaskQueue, t.warn)
	spec, declared, err := t.specOfRun(ctx, c, ns, credential)
	if err != nil {
		return err
	}
	plan, err := lookAt(ctx, c, workflows.TaskQueue, credential, workflows.InspectInput{Spec: spec}, t.warn)
	if err != nil {
		return err
	}
	if len(plan.Unreviewed) == 0 {
		return exit(exitRefused, fmt.Errorf("no approval by break-glass of %s waits for a review", credential))
	}
	review := policy.GlassReview{Namespace: ns, Credential: credential, Comment: comment, SignedAt: time.Now().UTC().Truncate(time.Millisecond)}
	now := plan.Unreviewed[:min(len(plan.Unreviewed), policy.ReviewedAtOnce)]
	for _, b := range now {
		review.Of = append(review.Of, b.ID)
	}
	if !yes {
		printUnreviewed(t.err, now)
		if err := t.ask("Type yes to sign that you reviewed them: "); err != nil {
			return err
		}
	}
	with, done, err := t.openKey(sign)
	if err != nil {
		return err
	}
	defer done()
	signed, err := review.Sign(with)
	if err != nil {
		return exit(exitUsage, err)
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.WorkflowID(credential), TaskQueue: workflows.TaskQueue, WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes: workflows.SearchAttributes(declared), StaticSummary: "review of break-glass of " + credential,
	}, workflows.Rotation, workflows.RotationInput{Spec: spec, Review: &signed, Reason: comment})
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &running) {
		return exit(exitRefused, fmt.Errorf("a rotation of %s is running (run %s), and only one run at a time writes what its store says: review when it has ended; see it with: keyturn status %s", credential, running.RunId, credential))
	}
	if err != nil {
		return fmt.Errorf("starting the review: %w", err)
	}
	report, err := result(ctx, run)
	if err != nil {
		return noAnswer("reviewing break-glass of "+credential, nil, err)
	}
	if err := t.show(report, func(w io.Writer) { fmt.Fprintln(w, plain(report.Message)) }); err != nil {
		return err
	}
	return exit(outcomeCode(report.Outcome), nil)
}

// specOfRun is the spec that the latest rotation of a credential followed, or else the one that was applied: who reviews need not be one who
// may sign any.
func (t *terminal) specOfRun(ctx context.Context, c client.Client, ns, credential string) (spec inventory.SignedSpec, declared inventory.Credential, err error) {
	value, err := c.QueryWorkflow(ctx, workflows.WorkflowID(credential), "", workflows.SpecName)
	if err == nil {
		err = value.Get(&spec)
	}
	if err == nil {
		if known, err := spec.Peek(); err == nil && known.Credential.Name == credential {
			return spec, known.Credential, nil
		}
	}
	pick, err := t.pick("", credential, "", rotateValid)
	if err != nil {
		return spec, declared, err
	}
	return pick.spec(ctx, c, ns)
}

func printUnreviewed(w io.Writer, list []workflows.BrokenGlass) {
	rows := [][]string{{"AT", "BY", "GATE", "WHY", "ROTATION"}}
	for _, b := range list {
		rows = append(rows, []string{clock(b.At), b.By, b.Gate, b.Reason, b.Rotation})
	}
	columns(w, rows...)
}
