package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// emergency is what the command line says of an incident.
type emergency struct {
	file, where, reason, name, sign, as string
	signSpec                            string
	suspect                             string
	keys                                []string
	since                               string
	deadline                            time.Duration
	revokeFirst, noFreeze, drill        bool
	dryRun, yes, wait                   bool
	timeout                             time.Duration
}

func newEmergency(t *terminal) *cobra.Command {
	var e emergency
	cmd := &cobra.Command{
		Use: "emergency CREDENTIAL... --reason WHY [--sign KEY]", Short: "Ends exposed keys now: another key everywhere, then the exposed one is destroyed",
		Long: `Ends exposed keys now. Another key is issued and brought to all consumers at once; as soon as they are on it the exposed one is
destroyed, and at the deadline whoever still uses it. No evidence, overlap or approval is waited for: the signature of one whom
trust.incidents of the worker configuration names is what it takes. A routine rotation that runs is taken over, with what it did.
Which key is exposed is the one that consumers are sent to, or were before a rotation that runs; --suspect and --key say another one.
Credentials that were made with an exposed one (dependsOn) are exposed, too, and follow it.

Without --sign nothing is destroyed: other keys are issued and brought to consumers as a routine, canary first, and the incident asks
for somebody who may sign for it: keyturn incident confirm ID --sign KEY.`,
		Example: `  keyturn emergency payments-api --reason "key in a public repository" --sign ~/.ssh/id_ed25519 --wait
  keyturn emergency --where team=payments --reason "a laptop was stolen" --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.drill {
				e.reason = cmp.Or(e.reason, "a drill")
				if len(args) == 0 && e.where == "" {
					e.where = incident.DrillLabel + "=true"
				}
			}
			if err := e.check(args); err != nil {
				return err
			}
			if cmd.Flags().Changed("deadline") && e.revokeFirst {
				return usage("--revoke-first is --deadline 0s: say one of them")
			}
			if e.sign == "" && !e.dryRun {
				for _, flag := range []string{"drill", "deadline", "revoke-first", "no-freeze"} {
					if cmd.Flags().Changed(flag) {
						return usage("--%s is for whoever signs: add --sign KEY", flag)
					}
				}
			}
			return t.emergency(cmd.Context(), e, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&e.file, "file", "f", "", "an inventory file that has the credentials (default what was applied)")
	f.StringVar(&e.where, "where", "", `these, too: labels (team=payments,tier!=1), or a query of Temporal's visibility ("KeyturnOwner = 'payments@example.com'")`)
	f.StringVar(&e.reason, "reason", "", "why, for everybody who is told")
	f.StringVar(&e.name, "name", "", "the incident's name, small letters, digits and hyphens (default made of the time)")
	f.StringArrayVar(&e.keys, "key", nil, "an exposed key as CREDENTIAL=ID, more than once for several")
	f.StringVar(&e.suspect, "suspect", suspectRetiring, "which key of a rotation that runs is exposed: retiring, incoming or both")
	f.StringVar(&e.since, "since", "", "since when somebody else may have had the keys, for the review of their uses: a time (2026-03-01T12:00:00Z), or how long ago (72h)")
	f.DurationVar(&e.deadline, "deadline", incident.DefaultDeadline.Std(), "when the exposed keys are destroyed whoever uses them; 0: at once, before there are others")
	f.BoolVar(&e.revokeFirst, "revoke-first", false, "destroy the exposed keys at once, before there are others")
	f.BoolVar(&e.noFreeze, "no-freeze", false, "let deployments go on, though the worker configuration has hooks that freeze them")
	f.BoolVar(&e.drill, "drill", false, "exercise it on credentials that are labelled drill=true (default all of them): their keys end for real")
	f.StringVar(&e.as, "as", me(), "who asks, for the record")
	signFlag(cmd, &e.sign)
	f.StringVar(&e.signSpec, "sign-spec", "", "with -f: the key that signs the file's specs, where it is not that of --sign")
	f.BoolVar(&e.dryRun, "dry-run", false, "only show what it would do; nothing is signed or begun")
	f.BoolVar(&e.yes, "yes", false, "do not ask before it begins")
	f.BoolVar(&e.wait, "wait", false, "wait for the end and report it")
	f.DurationVar(&e.timeout, "timeout", 0, "give up waiting after this long; the incident goes on (0: never)")
	return cmd
}

func (e *emergency) check(names []string) error {
	switch {
	case len(names) == 0 && e.where == "":
		return usage("name the credentials whose keys are exposed, or say which with --where")
	case strings.TrimSpace(e.reason) == "":
		return usage("say why, with --reason")
	case e.signSpec != "" && e.file == "":
		return usage("--sign-spec signs what a file says: name it with -f FILE")
	case !slices.Contains([]string{suspectRetiring, suspectIncoming, suspectBoth}, e.suspect):
		return usage("--suspect %q: write retiring, incoming or both", e.suspect)
	}
	if _, err := exposedSince(e.since, time.Now()); err != nil {
		return err
	}
	if e.revokeFirst {
		e.deadline = 0
	}
	return e.checkKeys()
}

func (e *emergency) checkKeys() error {
	for _, k := range e.keys {
		if name, id, ok := strings.Cut(k, "="); !ok || name == "" || id == "" {
			return usage("--key %q: write CREDENTIAL=ID", k)
		}
	}
	return nil
}

func (t *terminal) emergency(ctx context.Context, e emergency, names []string) error {
	var declared []entry // of the file
	var err error
	if e.file != "" {
		if declared, err = t.declaredIn(e.file, e.where); err != nil {
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
	who, err := e.affected(ctx, c, ns, declared, names)
	if err != nil {
		return err
	}
	input := workflows.IncidentInput{RequestedBy: e.as, NoFreeze: e.noFreeze, After: map[string][]string{}}
	specs, err := t.specsOf(ctx, c, ns, e, who)
	if err != nil {
		return err
	}
	if e.file != "" {
		input.Specs = specs
	}
	for _, a := range who {
		if len(a.After) > 0 {
			input.After[a.Credential] = a.After
		}
	}
	if input.ExposedSince, err = exposedSince(e.since, time.Now().UTC()); err != nil {
		return err
	}
	if err := e.drills(specs); err != nil {
		return err
	}
	unsigned := e.sign == "" && !e.dryRun
	switch err := e.expose(ctx, c, t, who, specs); {
	case err != nil && unsigned: // whoever signs says it
		fmt.Fprintf(t.err, "note: which keys are exposed is not said: %s\n", err)
	case err != nil:
		return err
	}
	if unsigned {
		return t.report(ctx, c, e, who, input)
	}
	id := incident.ID(cmp.Or(e.name, defaultName()))
	parts := e.declarations(ns, id, who)
	if len(parts) > incident.MaxParts {
		return usage("it is of %s: begin several incidents, of %d at most", policy.Counted(len(who), "credential"), incident.MaxParts*incident.MaxCredentials)
	}
	for _, d := range parts {
		if err := d.Validate(); err != nil {
			return exit(exitUsage, err)
		}
	}
	if e.dryRun {
		return t.show(plannedIncident{id, e.reason, inventory.Duration(e.deadline), who, pacedBy(who)}, func(w io.Writer) { printAffected(w, parts[0], who) })
	}
	envelopes, err := t.signFor(parts, who, e)
	if err != nil {
		return err
	}
	input.Declaration, input.More = envelopes[0], envelopes[1:]
	return t.declare(ctx, c, id, e.reason, input, e.wait)
}

// defaultName is that of an incident that nobody names.
func defaultName() string { return time.Now().UTC().Format("2006-01-02-150405") }

// declarations are those of an incident: one goes along with the emergency of each of its credentials, so that it is of so many at most.
func (e *emergency) declarations(namespace, id string, who []affected) (parts []incident.Declaration) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	for part := range slices.Chunk(who, incident.MaxCredentials) {
		d := incident.Declaration{
			Schema: incident.Schema, Namespace: namespace, Incident: id, Reason: e.reason, Drill: e.drill,
			Deadline: inventory.Duration(e.deadline), Exposed: map[string][]string{}, Nonce: rand.Text(), SignedAt: now, Expires: now.Add(incident.MaxValid),
		}
		for _, a := range part {
			d.Exposed[a.Credential] = a.Exposed
		}
		parts = append(parts, d)
	}
	return parts
}

// drills refuses a drill with credentials that are not there for that.
func (e *emergency) drills(specs map[string]inventory.SignedSpec) error {
	if !e.drill {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		spec, err := specs[name].Peek()
		if err != nil {
			return err
		}
		if spec.Credential.Labels[incident.DrillLabel] != "true" {
			return exit(exitRefused, fmt.Errorf("a drill ends keys for real, and %s is not labelled %s=true; nothing was touched", name, incident.DrillLabel))
		}
	}
	return nil
}

// report begins an incident that nobody signs.
func (t *terminal) report(ctx context.Context, c client.Client, e emergency, who []affected, input workflows.IncidentInput) error {
	if len(who) > workflows.MaxUnsigned {
		return usage("it is of %s, and without a signature it may be of %d: add --sign KEY", policy.Counted(len(who), "credential"), workflows.MaxUnsigned)
	}
	input.Reason, input.Suspects = e.reason, map[string][]string{}
	for _, a := range who {
		input.Credentials, input.Suspects[a.Credential] = append(input.Credentials, a.Credential), a.Exposed
	}
	id := incident.ID(cmp.Or(e.name, defaultName()))
	fmt.Fprintf(t.err, "NOT SIGNED: no key is destroyed before somebody signs whom trust.incidents names: keyturn incident confirm %s --sign KEY\n", id)
	return t.declare(ctx, c, id, e.reason, input, e.wait)
}

// signFor signs declarations of an incident, when somebody who has seen what they destroy says so.
func (t *terminal) signFor(parts []incident.Declaration, who []affected, e emergency) (all []signed.Envelope, err error) {
	if err := t.agree(parts[0], who, e.yes); err != nil {
		return nil, err
	}
	with, done, err := t.openKey(e.sign)
	if err != nil {
		return nil, err
	}
	defer done()
	for _, d := range parts {
		one, err := d.Sign(with)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// agree shows what will be destroyed, and asks.
func (t *terminal) agree(d incident.Declaration, who []affected, yes bool) error {
	if yes {
		return nil
	}
	printAffected(t.err, d, who)
	return t.ask("Type yes to begin: ")
}

// declare starts the incident, and waits for its end when that is asked for.
func (t *terminal) declare(ctx context.Context, c client.Client, id, reason string, input workflows.IncidentInput, wait bool) error {
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: workflows.EmergencyQueue, WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary: "emergency: " + outside.Text(reason, 150),
	}, workflows.Incident, input)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &running) {
		return exit(exitRefused, fmt.Errorf("%s is there already: choose another --name", id))
	}
	if err != nil {
		return fmt.Errorf("starting the incident: %w", err)
	}
	if warning := noWorker(ctx, c, workflows.EmergencyQueue); warning != "" {
		t.warn(warning)
	}
	if !wait {
		started := map[string]string{"workflow": run.GetID(), "run": run.GetRunID()}
		return t.show(started, func(w io.Writer) {
			fmt.Fprintf(w, "%s has begun.\n", run.GetID())
			columns(w, []string{"workflow", run.GetID()}, []string{"run", run.GetRunID()}, []string{"in the Web UI", "its current details say which key is dead, and which is not"})
		})
	}
	status, err := t.followIncident(ctx, c, run.GetID(), run.GetRunID())
	if err != nil {
		return err
	}
	if err := t.show(status, func(w io.Writer) { printIncident(w, status) }); err != nil {
		return err
	}
	return endOf(status)
}
