package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// emergency is what the command line says of an incident.
type emergency struct {
	file, reason, name, sign, as string
	keys                         []string
	deadline                     time.Duration
	yes, wait                    bool
	timeout                      time.Duration
}

func newEmergency(t *terminal) *cobra.Command {
	var e emergency
	cmd := &cobra.Command{
		Use: "emergency CREDENTIAL... --reason WHY --sign KEY", Short: "Ends exposed keys now: another key everywhere, then the exposed one is destroyed",
		Long: `Ends exposed keys now. Another key is issued and brought to all consumers at once; as soon as they are on it the exposed one is
destroyed, and at the deadline whoever still uses it. No evidence, overlap or approval is waited for: the signature of one whom
trust.incidents of the worker configuration names is what it takes. A routine rotation that runs is taken over, with what it did.

Which key is exposed is the one that consumers are sent to, or were before a rotation that runs, unless --key says another one.`,
		Example: `  keyturn emergency payments-api --reason "key in a public repository" --sign ~/.ssh/id_ed25519 --wait`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("name the credentials whose keys are exposed")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case strings.TrimSpace(e.reason) == "":
				return usage("say why, with --reason")
			case e.sign == "":
				return usage("an emergency destroys keys without asking anybody, so that somebody must sign for it whom trust.incidents names: --sign KEY")
			}
			return t.emergency(cmd.Context(), e, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&e.file, "file", "f", "", "an inventory file that has the credentials (default what was applied)")
	f.StringVar(&e.reason, "reason", "", "why, for everybody who is told")
	f.StringVar(&e.name, "name", "", "the incident's name, small letters, digits and hyphens (default made of the time)")
	f.StringArrayVar(&e.keys, "key", nil, "an exposed key as CREDENTIAL=ID, more than once for several")
	f.DurationVar(&e.deadline, "deadline", incident.DefaultDeadline.Std(), "when the exposed keys are destroyed whoever uses them; 0: at once, before there are others")
	f.StringVar(&e.as, "as", me(), "who asks, for the record")
	signFlag(cmd, &e.sign)
	f.BoolVar(&e.yes, "yes", false, "do not ask before it begins")
	f.BoolVar(&e.wait, "wait", false, "wait for the end and report it")
	f.DurationVar(&e.timeout, "timeout", 0, "give up waiting after this long; the incident goes on (0: never)")
	return cmd
}

func (t *terminal) emergency(ctx context.Context, e emergency, names []string) error {
	exposed, err := exposedKeys(e.keys, names)
	if err != nil {
		return err
	}
	picks := map[string]*picked{}
	for _, name := range names {
		sign := ""
		if e.file != "" {
			sign = e.sign
		}
		if picks[name], err = t.pick(e.file, name, sign, rotateValid); err != nil {
			return err
		}
	}
	if e.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.timeout)
		defer cancel()
	}
	c, ns, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	input := workflows.IncidentInput{RequestedBy: e.as}
	for _, name := range names {
		spec, _, err := picks[name].spec(ctx, c, ns)
		if err != nil {
			return err
		}
		if e.file != "" {
			if input.Specs == nil {
				input.Specs = map[string]inventory.SignedSpec{}
			}
			input.Specs[name] = spec
		}
		if len(exposed[name]) == 0 {
			keyID, err := inUse(ctx, c, name, spec)
			if err != nil {
				return err
			}
			exposed[name] = []string{keyID}
		}
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	d := incident.Declaration{
		Schema: incident.Schema, Namespace: ns, Incident: incident.ID(cmp.Or(e.name, now.Format("2006-01-02-150405"))), Reason: e.reason,
		Deadline: inventory.Duration(e.deadline), Exposed: exposed, Nonce: rand.Text(), SignedAt: now, Expires: now.Add(incident.MaxValid),
	}
	if err := d.Validate(); err != nil {
		return exit(exitUsage, err)
	}
	if err := t.confirm(d, e.yes); err != nil {
		return err
	}
	with, done, err := t.openKey(e.sign)
	if err != nil {
		return err
	}
	defer done()
	if input.Declaration, err = d.Sign(with); err != nil {
		return err
	}
	return t.declare(ctx, c, d, input, e.wait)
}

// exposedKeys reads --key.
func exposedKeys(keys, names []string) (map[string][]string, error) {
	exposed := map[string][]string{}
	for _, k := range keys {
		name, id, ok := strings.Cut(k, "=")
		if !ok || id == "" || !slices.Contains(names, name) {
			return nil, usage("--key %q: write CREDENTIAL=ID, of a credential that is named", k)
		}
		exposed[name] = append(exposed[name], id)
	}
	return exposed, nil
}

// inUse finds out which key of a credential consumers use: by the rotation that runs, the one that it retires, and else by a dry run.
func inUse(ctx context.Context, c client.Client, name string, spec inventory.SignedSpec) (string, error) {
	if isRunning(ctx, c, name) {
		value, err := c.QueryWorkflow(ctx, workflows.WorkflowID(name), "", workflows.StatusName)
		var status workflows.Status
		if err == nil {
			err = value.Get(&status)
		}
		if err != nil {
			return "", noAnswer(ctx, "asking the rotation of "+name+" for its keys", err)
		}
		if id := cmp.Or(status.Retiring.KeyID, status.Incoming.KeyID); id != "" {
			return id, nil
		}
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.InspectID(name), TaskQueue: workflows.EmergencyQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
		WorkflowExecutionTimeout: 10 * time.Minute, StaticSummary: "which key of " + name + " is in use",
	}, workflows.Inspect, workflows.InspectInput{Spec: spec})
	if err != nil {
		return "", fmt.Errorf("starting the look at %s: %w", name, err)
	}
	var plan policy.Plan
	if err := run.Get(ctx, &plan); err != nil {
		return "", noAnswer(ctx, "looking which key of "+name+" is in use", err)
	}
	if plan.Retiring == nil {
		return "", exit(exitRefused, fmt.Errorf("which key of %s is in use is not known: name the exposed one with --key %s=ID", name, name))
	}
	return plan.Retiring.KeyID, nil
}

// confirm shows what will be destroyed, and asks.
func (t *terminal) confirm(d incident.Declaration, yes bool) error {
	if yes {
		return nil
	}
	when := "as soon as all consumers are on another one, and in " + d.Deadline.String() + " whoever uses it"
	if d.Deadline == 0 {
		when = "AT ONCE, before there is another one"
	}
	fmt.Fprintf(t.err, "%s: %s\n", d.Incident, plain(d.Reason))
	for _, name := range slices.Sorted(maps.Keys(d.Exposed)) {
		fmt.Fprintf(t.err, "  %s: destroys %s %s\n", plain(name), plain(strings.Join(d.Exposed[name], ", ")), when)
	}
	in, ok := t.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usage("there is no terminal to ask on: say --yes when that is what shall happen")
	}
	fmt.Fprint(t.err, "Type yes to begin: ")
	answer, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return exit(exitRefused, errors.New("not begun; nothing was touched"))
	}
	return nil
}

// declare starts the incident, and waits for its end when that is asked for.
func (t *terminal) declare(ctx context.Context, c client.Client, d incident.Declaration, input workflows.IncidentInput, wait bool) error {
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: d.Incident, TaskQueue: workflows.EmergencyQueue, WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary: "emergency: " + d.Reason[:min(len(d.Reason), 150)],
	}, workflows.Incident, input)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &running) {
		return exit(exitRefused, fmt.Errorf("%s is there already: choose another --name", d.Incident))
	}
	if err != nil {
		return fmt.Errorf("starting the incident: %w", err)
	}
	if !wait {
		started := map[string]string{"workflow": run.GetID(), "run": run.GetRunID()}
		return t.show(started, func(w io.Writer) {
			fmt.Fprintf(w, "%s has begun.\n", run.GetID())
			columns(w, []string{"workflow", run.GetID()}, []string{"run", run.GetRunID()}, []string{"in the Web UI", "its current details say which key is dead, and which is not"})
		})
	}
	var status workflows.IncidentStatus
	if err := run.Get(ctx, &status); err != nil {
		return noAnswer(ctx, "waiting for "+run.GetID(), err)
	}
	if err := t.show(status, func(w io.Writer) { printIncident(w, status) }); err != nil {
		return err
	}
	switch status.Outcome {
	case workflows.Contained, workflows.ContainedWithDebt:
		return nil
	case workflows.Refused:
		return exit(exitRefused, nil)
	}
	return exit(exitFailed, nil)
}

// printIncident shows how an incident ended, what is not contained first.
func printIncident(w io.Writer, s workflows.IncidentStatus) {
	fmt.Fprintln(w, plain(s.Message))
	rows := [][]string{{"CREDENTIAL", "EXPOSED", "STATE", "DEAD AFTER", "CURRENT"}}
	for _, m := range s.Credentials {
		var dead []string
		for _, k := range m.Contained {
			dead = append(dead, k.At.Sub(s.Since).Round(time.Second).String())
		}
		rows = append(rows, []string{plain(m.Credential), plain(strings.Join(m.Exposed, ", ")), m.State, strings.Join(dead, ", "), plain(m.Current.KeyID)})
	}
	columns(w, rows...)
	for _, line := range s.Timeline {
		fmt.Fprintf(w, "%s  %s\n", line.At.UTC().Format(time.TimeOnly), plain(line.What))
	}
}
