package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

// entry is one line of the inventory.
type entry struct {
	schedule.Entry
	// Issuer is type, account and principals.
	Issuer string `json:"issuer"`
	// KeyAge is that of the current key.
	KeyAge  inventory.Duration `json:"keyAge,omitzero"`
	Overdue bool               `json:"overdue,omitempty"`
	// Phase is that of the rotation that runs; empty for none.
	Phase workflows.Phase `json:"phase,omitempty"`
	// CutOff is how Temporal ended a run after the last rotation that recorded its end; nil for none.
	CutOff  *cutOff   `json:"cutOff,omitempty"`
	NextRun time.Time `json:"nextRun,omitzero"`
	// Drift is where the index differs from what issuer and store say; when they could not be asked, Problem says why.
	Drift []string `json:"drift,omitempty"`
}

// cutOff is a run that did not come to its end. As is terminated, timed-out or canceled.
type cutOff struct {
	As    string    `json:"as"`
	At    time.Time `json:"at"`
	began time.Time
}

// listing has the flags of the command.
type listing struct {
	where, owner, of, expiring string
	overdue, verify            bool
	timeout                    time.Duration
}

func newInventory(t *terminal) *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "inventory", Short: "Shows every credential: whose it is, how old its key is, when it is rotated next", Args: noArgs,
		Long: `Shows every credential of the applied inventories, from Temporal's index of them. With --verify, workers ask
issuers and stores, which have the truth; where the index differs, that is said, and mended.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context(), t) },
	}
	f := cmd.Flags()
	f.StringVar(&l.where, "where", "", `only these: labels (team=payments,tier!=1,!legacy), or a query of Temporal's visibility ("KeyturnRisk = 'high'")`)
	f.StringVar(&l.of, "inventory", "", "only those of this inventory")
	f.StringVar(&l.owner, "owner", "", "only those of this owner")
	f.BoolVar(&l.overdue, "overdue", false, "only those past their rotate-by")
	f.StringVar(&l.expiring, "expiring", "", "only those whose key ends, or whose rotate-by comes, within this time, such as 14d")
	f.BoolVar(&l.verify, "verify", false, "ask issuers and stores, too; exit code 1 when the index differs from them")
	f.DurationVar(&l.timeout, "timeout", 5*time.Minute, "with --verify, how long to wait for workers")
	cmd.AddCommand(newScan(t))
	return cmd
}

func (l listing) run(ctx context.Context, t *terminal) error {
	named, due, query, err := l.filters()
	if err != nil {
		return err
	}
	c, ns, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	listed, err := schedule.New(c, ns, catalog()).List(ctx, l.of, query)
	var malformed *serviceerror.InvalidArgument
	if query != "" && errors.As(err, &malformed) {
		return usage("--where: %s; write labels such as team=payments, or a query of Temporal's visibility such as \"KeyturnRisk = 'high'\"", outside.Text(malformed.Message, outside.MaxText))
	}
	if err != nil {
		return err
	}
	running, err := runningRotations(ctx, c)
	if err != nil {
		return err
	}
	cut, err := cutOffRotations(ctx, c)
	if err != nil {
		return err
	}
	entries := []entry{}
	now := time.Now()
	for _, e := range listed {
		line := describe(e, running, cut, now)
		if named(line) {
			entries = append(entries, line)
		}
	}
	differs := false
	if l.verify {
		tellOfSilence(ctx, c, workflows.TaskQueue, t.warn)
		if differs, err = l.check(ctx, c, entries, now); err != nil {
			return err
		}
	}
	unseen := 0
	entries = slices.DeleteFunc(entries, func(e entry) bool {
		if !e.seen() {
			unseen++
		}
		return !due(e)
	})
	if err := t.list(entries, l.verify, l.filtered()); err != nil {
		return err
	}
	if unseen > 0 && (l.overdue || l.expiring != "") {
		t.advise(fmt.Sprintf("%d of the credentials have not been looked at since they were applied, so that it is not known when they are due: ask issuers and stores with --verify", unseen))
	}
	if differs {
		return exit(exitFailed, nil)
	}
	return nil
}

func describe(e schedule.Entry, running map[string]runningRotation, cut map[string]cutOff, now time.Time) entry {
	line := entry{Entry: e, Issuer: e.Issuer(), Phase: running[e.Credential].Phase}
	line.reckon(now)
	if last, is := cut[e.Credential]; is && last.began.After(e.State.LastRotation) { // else it had recorded its end
		line.CutOff = &last
	}
	if !e.Paused {
		for _, next := range e.NextRuns {
			if next.After(now) {
				line.NextRun = next
				break
			}
		}
	}
	return line
}

// reckon derives from the state what depends on the time.
func (e *entry) reckon(now time.Time) {
	e.KeyAge = 0
	if issued := e.State.KeyIssuedAt; !issued.IsZero() {
		e.KeyAge = inventory.Duration(now.Sub(issued).Truncate(time.Second))
	}
	e.Overdue = !e.State.RotateBy.IsZero() && now.After(e.State.RotateBy)
}

// seen tells whether somebody has looked at the credential's key since it was applied.
func (e entry) seen() bool { return !e.State.KeyIssuedAt.IsZero() || !e.State.RotateBy.IsZero() }

func (l listing) filtered() bool {
	return l.where != "" || l.owner != "" || l.of != "" || l.overdue || l.expiring != ""
}

// filters are what the flags ask for: a condition on what a credential is declared as, one on when it is due, and
// a query of Temporal's.
func (l listing) filters() (named, due func(entry) bool, query string, err error) {
	labels, ok := parseSelector(l.where)
	if !ok {
		labels, query = func(entry) bool { return true }, l.where
	} else if m := attributeForm.FindStringSubmatch(l.where); m != nil {
		return nil, nil, "", usage("--where: %s is no label; to ask for it, write a query such as \"%s = '...'\", with the quotes", m[1], m[1])
	}
	named = func(e entry) bool { return labels(e) && (l.owner == "" || e.Owner == l.owner) }
	var limit time.Time
	if l.expiring != "" {
		within, err := inventory.ParseDuration(l.expiring)
		if err != nil {
			return nil, nil, "", usage("--expiring: %w", err)
		}
		limit = time.Now().Add(within.Std())
	}
	due = func(e entry) bool {
		expiring := slices.ContainsFunc([]time.Time{e.State.KeyExpires, e.State.RotateBy}, func(at time.Time) bool { return !at.IsZero() && at.Before(limit) })
		return (!l.overdue || e.Overdue) && (limit.IsZero() || expiring)
	}
	return named, due, query, nil
}

// attributeForm finds keyturn's search attributes in what reads like a label selector.
var attributeForm = regexp.MustCompile(`(?:^|[,!\s])(Keyturn[A-Za-z]+)`)

var selectorForm = regexp.MustCompile(`^(!?)([A-Za-z0-9][A-Za-z0-9._/-]*)(?:(=|==|!=)([A-Za-z0-9._/-]*))?$`)

// parseSelector reads a label selector, as Kubernetes has them: name=value, name!=value, name, !name, with commas
// between. ok is false for what is none.
func parseSelector(text string) (matches func(entry) bool, ok bool) {
	if text == "" {
		return func(entry) bool { return true }, true
	}
	var all []func(map[string]string) bool
	for part := range strings.SplitSeq(text, ",") {
		m := selectorForm.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil || m[1] == "!" && m[3] != "" {
			return nil, false
		}
		not, name, operator, value := m[1] == "!", m[2], m[3], m[4]
		all = append(all, func(labels map[string]string) bool {
			is, there := labels[name]
			switch operator {
			case "":
				return there != not
			case "!=":
				return !there || is != value
			}
			return there && is == value
		})
	}
	return func(e entry) bool {
		return !slices.ContainsFunc(all, func(f func(map[string]string) bool) bool { return !f(e.Labels) })
	}, true
}

// check has workers look up what issuers and stores say.
func (l listing) check(ctx context.Context, c client.Client, entries []entry, now time.Time) (differs bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for chunk := range slices.Chunk(entries, workflows.MaxVerify) {
		group.Go(func() error {
			var names []string
			for _, e := range chunk {
				names = append(names, e.Credential)
			}
			run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
				ID: "verify/" + uuid.NewString(), TaskQueue: workflows.TaskQueue, WorkflowExecutionTimeout: l.timeout,
				StaticSummary: "look up " + policy.Counted(len(names), "credential"),
			}, workflows.Verify, workflows.VerifyInput{Credentials: names})
			if err != nil {
				return fmt.Errorf("verifying: %w", err)
			}
			var found []workflows.Verified
			if err := run.Get(ctx, &found); err != nil {
				return noAnswer("verifying", nil, err)
			}
			for i, v := range found {
				chunk[i].Problem = cmp.Or(chunk[i].Problem, v.Problem)
				if v.Problem == "" {
					chunk[i].Drift = policy.Drift(chunk[i].State, schedule.Rounded(v.State))
					chunk[i].State = schedule.Rounded(v.State)
					chunk[i].reckon(now)
				}
			}
			return nil
		})
	}
	err = group.Wait()
	return slices.ContainsFunc(entries, func(e entry) bool { return len(e.Drift) > 0 || e.Problem != "" }), err
}

// list prints the inventory, or what filters left of it.
func (t *terminal) list(entries []entry, verified, filtered bool) error {
	head := []string{"NAME", "OWNER", "PURPOSE", "ENVIRONMENT", "RISK", "ISSUER", "KEY AGE", "KEY ENDS", "LAST ROTATION", "OUTCOME", "ROTATE BY", "PHASE", "NEXT RUN", "SIGNED BY"}
	if verified {
		head = append(head, "DIFFERS")
	}
	rows := [][]string{head}
	when := func(at time.Time) string {
		switch {
		case at.IsZero():
			return ""
		case t.output == "csv":
			return at.UTC().Format(time.RFC3339)
		}
		return at.Local().Format("2006-01-02 15:04")
	}
	for _, e := range entries {
		by, phase := when(e.State.RotateBy), string(e.Phase)
		switch {
		case t.output == "csv":
		case e.Overdue:
			by += " overdue"
		case !e.seen():
			by = "unknown"
		}
		if e.Paused {
			phase = strings.TrimPrefix(phase+", paused", ", ")
		}
		if e.Problem != "" && !verified {
			phase = strings.TrimPrefix(phase+", unreadable", ", ")
		}
		last, outcome := e.State.LastRotation, e.State.LastOutcome
		if e.CutOff != nil {
			last, outcome = e.CutOff.At, e.CutOff.As
		}
		row := []string{
			e.Credential, e.Owner, e.Purpose, e.Environment, string(e.Risk), e.Issuer, age(e.KeyAge), when(e.State.KeyExpires),
			when(last), outcome, by, phase, when(e.NextRun), cmp.Or(e.Signer, "nobody"),
		}
		if verified {
			row = append(row, cmp.Or(e.Problem, strings.Join(e.Drift, "; ")))
		}
		rows = append(rows, row)
	}
	if t.output == "csv" {
		w := csv.NewWriter(t.out)
		for i, row := range rows {
			for j := range row {
				if i == 0 {
					row[j] = strings.ReplaceAll(strings.ToLower(row[j]), " ", "_")
				} else {
					row[j] = cell(row[j])
				}
			}
		}
		return w.WriteAll(rows)
	}
	return t.show(entries, func(w io.Writer) {
		switch {
		case len(entries) > 0:
			columns(w, rows...)
		case filtered:
			fmt.Fprintln(w, "No credential that is applied matches.")
		default:
			fmt.Fprintln(w, "No credential. Apply an inventory with: keyturn apply -f FILE")
		}
		for _, e := range entries {
			if e.Problem != "" && !verified {
				fmt.Fprintf(w, "\nnote: %s: %s; see what to do with: keyturn sweep\n", e.Credential, outside.Text(e.Problem, outside.MaxText))
			}
		}
	})
}

// cell keeps a spreadsheet from taking a text for a formula.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

// age is a duration as people say it: in days, or in hours and less below one.
func age(d inventory.Duration) string {
	const day = inventory.Duration(24 * time.Hour)
	switch {
	case d == 0:
		return ""
	case d >= day:
		return fmt.Sprintf("%dd", d/day)
	case d >= inventory.Duration(time.Hour):
		return inventory.Duration(d.Std().Truncate(time.Hour)).String()
	}
	return d.String()
}
