package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/schedule"
)

// apply has the flags of the command.
type apply struct {
	paths              []string
	prune, dryRun, yes bool
	verify             bool
	sign               string
	valid              string

	t         *terminal
	schedules *schedule.Schedules
	key       ssh.Signer
	namespace string
	with      signing
}

func newApply(t *terminal) *cobra.Command {
	a := &apply{t: t}
	cmd := &cobra.Command{
		Use: "apply -f FILE|FOLDER", Short: "Makes Temporal's Schedules what inventories say", Args: noArgs,
		Long: `Makes one Temporal Schedule for each credential of the inventories, and changes those that differ. What will
be done is shown first. Everything is checked before anything is changed. It may be run again, also after it was
interrupted: what is there already is left as it is. A rotation that runs keeps the spec it began with.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringArrayVarP(&a.paths, "file", "f", nil, "an inventory, a folder of them, or - for standard input; may be repeated")
	f.BoolVar(&a.prune, "prune", false, "remove credentials of the same inventories that are in the files no more; needs --yes")
	f.BoolVar(&a.dryRun, "dry-run", false, "only show what would be done; it needs no key, also where specs are signed")
	f.BoolVar(&a.yes, "yes", false, "remove what --prune lists")
	f.BoolVar(&a.verify, "verify", false, "look into every Schedule, not only at Temporal's index of them: one that somebody else has written to is written over")
	signFlag(cmd, &a.sign)
	f.StringVar(&a.valid, "valid", "", "with --sign, how long rotations may begin by these specs, such as 400d (default for ever); past half of it, apply signs again")
	return cmd
}

func (a *apply) run(ctx context.Context) error {
	list, err := a.check()
	if err != nil {
		return err
	}
	// Files are read while Temporal is asked what there is: of thousands of credentials, either takes seconds.
	asking, stop := context.WithCancel(ctx)
	var c client.Client
	var there []schedule.Entry
	var asked error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if c, a.namespace, asked = a.t.connect(asking); asked == nil {
			a.schedules = schedule.New(c, a.namespace, catalog())
			there, asked = a.schedules.List(asking, "", "")
			if asked == nil && a.verify {
				asked = a.schedules.Verify(asking, there)
			}
		}
	}()
	defer func() {
		stop()
		if <-answered; c != nil {
			c.Close()
		}
	}()
	own, want, err := a.read(list)
	if err != nil {
		return err
	}
	if a.sign != "" {
		key, done, err := a.t.openKey(a.sign)
		if err != nil {
			return err
		}
		defer done()
		a.key, a.with.signer = key, ssh.FingerprintSHA256(key.PublicKey())
	}
	if <-answered; asked != nil {
		return asked
	}
	for i := range want {
		// What is compared is what is kept: a spec names its namespace.
		want[i].spec.Namespace = a.namespace
		if want[i].digest, err = want[i].spec.Digest(); err != nil {
			return err
		}
	}
	plan, problems := lay(own, want, there, a.with, a.prune, time.Now())
	if len(problems) > 0 {
		return exit(exitRefused, fmt.Errorf("%w\nNothing was changed", joined(problems)))
	}
	if err := a.explain(ctx, c, plan); err != nil {
		return err
	}
	return a.carryOut(ctx, plan)
}

// check sees that the flags are whole, and lists the files.
func (a *apply) check() ([]string, error) {
	if len(a.paths) == 0 {
		return nil, usage("say which inventory, with -f FILE or -f FOLDER")
	}
	if a.valid != "" {
		valid, err := inventory.ParseDuration(a.valid)
		if err != nil || a.sign == "" {
			return nil, usage("--valid says how long a signature counts: write it beside --sign, and a duration such as 400d")
		}
		a.with.valid = valid.Std()
	}
	a.with.later = a.dryRun
	return files(a.paths)
}

// read reads and checks all files, and names the inventories that they are of; every error comes at once.
func (a *apply) read(list []string) (own []string, want []wanted, err error) {
	inventories, errs := make([]*inventory.Inventory, len(list)), make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, file := range list {
		group.Go(func() error {
			inventories[i], errs[i] = a.t.load(file)
			return nil
		})
	}
	_ = group.Wait() // each error is in errs
	if problems := slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(problems) > 0 {
		return nil, nil, exit(exitUsage, fmt.Errorf("%w\nNothing was changed", joined(problems)))
	}
	for i, inv := range inventories {
		for _, advice := range inv.Advice {
			a.t.advise(advice.String())
		}
		own = append(own, inv.Name)
		for k, c := range inv.Credentials {
			want = append(want, wanted{file: list[i], spec: inventory.Spec{Inventory: inv.Name, Credential: c}, claims: inv.Claims[k]})
		}
	}
	return own, want, nil
}

// explain adds what only the Schedules themselves know: the fields that change, and who is rotating now.
func (a *apply) explain(ctx context.Context, c client.Client, plan []change) error {
	running, err := runningRotations(ctx, c)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range plan {
		p := &plan[i]
		if p.Action == actKeep || p.Action == actLeave || p.Action == actCreate {
			continue
		}
		if _, runs := running[p.Credential]; runs {
			p.Notes = append(p.Notes, "a rotation is running: it keeps the spec it began with")
		}
		if p.Action == actRemove {
			continue
		}
		group.Go(func() error {
			described, err := a.schedules.Describe(ctx, p.Inventory, p.Credential)
			if errors.Is(err, schedule.ErrUnreadable) {
				p.Notes = append(p.Notes, described.Problem+"; it is written over")
				p.seen = described.Entry
				return nil
			}
			if err != nil {
				return err
			}
			fields, err := differences(described.Spec.Credential, p.spec.Credential)
			p.Fields = append(fields, p.Fields...)
			p.seen = described.Entry
			return err
		})
	}
	return group.Wait()
}

// applied is what apply did, or would do.
type applied struct {
	DryRun  bool     `json:"dryRun,omitempty"`
	Changes []change `json:"changes"`
	// Done and Failed count what was tried of Changes.
	Done   int      `json:"done"`
	Failed []string `json:"failed,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// writers is how many Schedules are written at once.
const writers = 8

func (a *apply) carryOut(ctx context.Context, plan []change) error {
	removals := slices.ContainsFunc(plan, func(c change) bool { return c.Action == actRemove })
	out := applied{DryRun: a.dryRun, Changes: plan}
	if a.t.output == "table" && !a.t.quiet {
		a.print(a.t.out, plan)
	}
	switch {
	case a.dryRun:
		return a.t.show(out, func(io.Writer) {})
	case removals && !a.yes:
		out.Error = "nothing was changed: --prune would remove what is listed; say so with --yes"
		return a.fail(exitUsage, out)
	}
	var todo, first []change
	for _, c := range plan {
		switch c.Action {
		case actKeep, actLeave:
		case actRemove: // before somebody else takes what it held
			first = append(first, c)
		default:
			todo = append(todo, c)
		}
	}
	total := len(first) + len(todo)
	bar := a.t.progress("applied", total)
	for _, batch := range [][]change{first, todo} {
		done, failed := a.each(ctx, batch, bar)
		out.Done += done
		out.Failed = append(out.Failed, failed...)
	}
	bar.end()
	if out.Done < total {
		if ctx.Err() != nil {
			out.Failed = append(out.Failed, "interrupted")
		}
		out.Error = fmt.Sprintf("%s\n%d of %d done; run the same command again for the rest: what is done is left as it is", strings.Join(out.Failed, "\n"), out.Done, total)
		return a.fail(exitFailed, out)
	}
	return a.t.show(out, func(w io.Writer) {
		if total > 0 {
			fmt.Fprintf(w, "%d of %d done.\n", out.Done, total)
		}
	})
}

// fail ends the command: for programs with the result as it stands, for people with its error.
func (a *apply) fail(code int, out applied) error {
	if a.t.output == "table" {
		return exit(code, errors.New(out.Error))
	}
	if err := a.t.show(out, nil); err != nil {
		return err
	}
	return exit(code, nil)
}

// each does changes, several at once; what fails does not keep the others from being done.
func (a *apply) each(ctx context.Context, changes []change, bar *progress) (done int, failed []string) {
	var group errgroup.Group
	var mu sync.Mutex
	group.SetLimit(writers)
	for _, c := range changes {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			err := a.one(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
				bar.add()
			case ctx.Err() == nil:
				failed = append(failed, fmt.Sprintf("%s: %s", c.Credential, err))
			}
			return nil
		})
	}
	_ = group.Wait() // every error is in failed
	slices.Sort(failed)
	return done, failed
}

func (a *apply) one(ctx context.Context, c change) error {
	if c.Action == actRemove {
		return a.schedules.Delete(ctx, c.Inventory, c.Credential)
	}
	signed, err := a.pack(c)
	if err != nil {
		return err
	}
	if c.Action != actCreate {
		return a.schedules.Declare(ctx, signed, c.seen.Generation)
	}
	content := schedule.Content{}
	if err := content.Declare(signed); err != nil {
		return err
	}
	err = a.schedules.Create(ctx, content)
	if !errors.Is(err, schedule.ErrExists) {
		return err
	}
	// Somebody made it since it was looked for; or we did, and did not hear of it.
	found, err := a.schedules.Describe(ctx, c.Inventory, c.Credential)
	if err != nil {
		return err
	}
	wants, err := c.spec.Digest()
	if err == nil && (found.Digest != wants || found.Signer != a.with.signer) {
		err = schedule.ErrOvertaken
	}
	return err
}

// pack makes the spec that goes into a Schedule: newer than the one that is there.
func (a *apply) pack(c change) (inventory.SignedSpec, error) {
	spec := c.spec
	spec.Generation = max(time.Now().UnixMilli(), c.seen.Generation+1)
	spec.NotAfter = a.with.notAfter(time.Now())
	packed, err := inventory.NewSpec(spec)
	if err != nil || a.key == nil {
		return packed, err
	}
	return packed.Sign(a.key)
}

// print shows the plan to people.
func (a *apply) print(w io.Writer, plan []change) {
	signs := map[string]string{actCreate: "+", actChange: "~", actPause: "‖", actResume: "▸", actRemove: "-", actLeave: "?"}
	counts := map[string]int{}
	for _, c := range plan {
		counts[c.Action]++
		if c.Action == actKeep {
			continue
		}
		fmt.Fprintf(w, "%s %s\n", signs[c.Action], a.t.bold(c.Action+" "+c.Inventory+"/"+c.Credential))
		var rows [][]string
		for _, f := range c.Fields {
			rows = append(rows, []string{"    " + f.Field, f.change()})
		}
		columns(w, rows...)
		for _, n := range c.Notes {
			columns(w, []string{"    note: " + n})
		}
	}
	var parts []string
	for _, action := range []string{actCreate, actChange, actPause, actResume, actRemove, actLeave} {
		if n := counts[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n, action))
		}
	}
	if len(parts) == 0 {
		parts = []string{"no change"}
	}
	fmt.Fprintf(w, "%s; %d unchanged.\n", strings.Join(parts, ", "), counts[actKeep])
}
