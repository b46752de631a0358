package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/workflows"
)

func newReview(t *terminal) *cobra.Command {
	var sign, comment string
	var yes bool
	cmd := &cobra.Command{
		Use: "review INCIDENT|rotation/CREDENTIAL --sign KEY --comment TEXT", Short: "Records that somebody else reviewed an incident, or approvals by break-glass", Args: oneIncident,
		Long: `Records that somebody else looked at what was done without the usual approvals.

Of an incident: records in the audit record of each of its credentials that an incident was reviewed: by somebody whom trust.incidents of the worker
configuration names, and who did not declare it. What it did is shown first.

Of rotation/CREDENTIAL: reviews the approvals by break-glass that nobody has reviewed yet, as one who may approve for the credential, or break
glass, and broke none of them. Until that is done, no routine rotation of the credential begins once 24 h have passed.`,
		Example: `  keyturn review incident/2026-05-01-031500 --sign ~/.ssh/id_ed25519 --comment "right key, right time; the canary was slow"
  keyturn review rotation/payments-api --sign agent --comment "bob was away; the evidence was complete"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case sign == "":
				return usage("say with which key to sign: --sign KEY")
			case strings.TrimSpace(comment) == "":
				return usage("say what you found, with --comment")
			}
			if credential, of := strings.CutPrefix(args[0], workflows.WorkflowID("")); of {
				return t.reviewBreakGlass(cmd.Context(), credential, sign, comment, yes)
			}
			return t.review(cmd.Context(), incidentID(args[0]), sign, comment, yes)
		},
	}
	f := cmd.Flags()
	signFlag(cmd, &sign)
	f.StringVar(&comment, "comment", "", "what the review found, for the record")
	f.BoolVar(&yes, "yes", false, "do not show it and ask before it is signed")
	return cmd
}

func (t *terminal) review(ctx context.Context, id, sign, comment string, yes bool) error {
	c, ns, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	status, run, err := findIncident(ctx, c, id, t.warn)
	if err != nil {
		return err
	}
	if status.Outcome == "" {
		return exit(exitRefused, fmt.Errorf("%s goes on: review it when it has ended; see how it stands with: keyturn incident show %s", id, id))
	}
	tellOfSilentRun(ctx, c, id, t.warn)
	var input workflows.ReviewInput
	value, err := c.QueryWorkflow(ctx, id, run, workflows.DeclarationsName)
	if err == nil {
		err = value.Get(&input.Declarations)
	}
	if err != nil {
		return noAnswer("asking "+id+" by what it acted", nil, err)
	}
	if len(input.Declarations) == 0 {
		return exit(exitRefused, fmt.Errorf("nobody signed for %s, so that there is nothing to review", id))
	}
	digests, err := incident.Digests(input.Declarations)
	if err != nil {
		return fmt.Errorf("reading what %s acted by: %w", id, err)
	}
	if !yes {
		printIncident(t.err, status)
		if err := t.ask("Type yes to sign that you reviewed it: "); err != nil {
			return err
		}
	}
	with, done, err := t.openKey(sign)
	if err != nil {
		return err
	}
	defer done()
	review := incident.Review{Namespace: ns, Incident: id, Declarations: digests, Comment: comment, SignedAt: time.Now().UTC().Truncate(time.Millisecond)}
	if input.Review, err = review.Sign(with); err != nil {
		return exit(exitUsage, err)
	}
	started, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: incident.ReviewID(id), TaskQueue: workflows.TaskQueue, WorkflowIDReusePolicy: enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowExecutionErrorWhenAlreadyStarted: true, WorkflowExecutionTimeout: 10 * time.Minute, StaticSummary: "review of " + id,
	}, workflows.Review, input)
	if err != nil {
		return fmt.Errorf("starting the review: %w", err)
	}
	var reviewed workflows.Reviewed
	if err := started.Get(ctx, &reviewed); err != nil {
		return noAnswer("reviewing "+id, nil, err)
	}
	return t.show(reviewed, func(w io.Writer) { fmt.Fprintln(w, reviewLine(status, &reviewed)) })
}

// ask waits for a yes on the terminal.
func (t *terminal) ask(question string) error {
	in, ok := t.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usage("there is no terminal to ask on: say --yes when that is what shall happen")
	}
	fmt.Fprint(t.err, question)
	answer, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return exit(exitRefused, errors.New("not begun; nothing was touched"))
	}
	return nil
}

// reviewOf is the latest review of an incident that counts; nil for none.
func reviewOf(ctx context.Context, c client.Client, id string) *workflows.Reviewed {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var reviewed workflows.Reviewed
	described, err := c.DescribeWorkflowExecution(ctx, incident.ReviewID(id), "")
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) || err == nil && described.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
		return nil
	}
	if c.GetWorkflow(ctx, incident.ReviewID(id), "").Get(ctx, &reviewed) != nil {
		return nil
	}
	return &reviewed
}

// reviewLine says who reviewed an incident, or that somebody has to.
func reviewLine(s workflows.IncidentStatus, r *workflows.Reviewed) string {
	switch {
	case r != nil:
		return fmt.Sprintf("Reviewed by %s %s: %s", plain(r.By), clock(r.At), plain(r.Comment))
	case s.Outcome == "" || s.DeclaredBy == "":
		return ""
	}
	return fmt.Sprintf("Not reviewed yet: keyturn review %s --sign KEY --comment ..., by another one than %s", s.Incident, plain(s.DeclaredBy))
}
