package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// maxSpecs bounds the specs that a scan is handed by value, below what Temporal lets pass.
const maxSpecs = 1 << 20

func newScan(t *terminal) *cobra.Command {
	var accounts []string
	var file, sign, emit string
	var timeout time.Duration
	maxAge := inventory.Duration(90 * 24 * time.Hour)
	cmd := &cobra.Command{
		Use: "scan [--account A]... [-f FILE]", Short: "Lists every key of the issuer accounts, and says who looks after it", Args: noArgs,
		Long: `Lists every key that the issuer accounts of the worker configuration have, within its bounds, and says of
each whether a credential that is applied (or, with -f, of a file) has it: managed, unmanaged (nobody declared
it), orphaned (keyturn's own, and nothing looks after it), disabled but alive, over age. It runs on the worker
and changes nothing.

With --emit it writes a beginning of an inventory for those that nobody declared. What only a person knows is
marked TODO; until that is filled in, validate says what is missing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Lstat(emit); emit != "" && emit != "-" && err == nil {
				return taken(emit) // before a scan, which may take long
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			c, ns, err := t.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			in := workflows.ScanInput{Accounts: accounts, MaxAge: maxAge}
			if file != "" {
				if in.Specs, err = t.specs(file, ns, sign); err != nil {
					return err
				}
			}
			report, keys, err := scanned(ctx, c, in, t.warn)
			if err != nil {
				return err
			}
			if emit != "" {
				if err := t.emit(emit, report, keys); err != nil || emit == "-" {
					return err
				}
			}
			return t.showScan(report, keys)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&accounts, "account", nil, "an issuer account of the worker configuration; may be repeated; all that can be scanned by default")
	f.StringVarP(&file, "file", "f", "", "match with the credentials of this inventory, instead of those that are applied")
	f.StringVar(&emit, "emit", "", "write a beginning of an inventory for keys that nobody declared to this file, which must not exist; - for standard output")
	f.TextVar(&maxAge, "max-age", maxAge, "how old a key may be that nobody declared")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for the worker's answer")
	signFlag(cmd, &sign)
	return cmd
}

// specs packs all credentials of a file.
func (t *terminal) specs(file, namespace, sign string) ([]inventory.SignedSpec, error) {
	inv, err := t.load(file)
	if err != nil {
		return nil, err
	}
	var list []inventory.SignedSpec
	size := 0
	for _, c := range inv.Credentials {
		packed, err := t.pack(inventory.Spec{Inventory: inv.Name, Generation: time.Now().UnixMilli(), Credential: c}, namespace, sign, planValid)
		if err != nil {
			return nil, err
		}
		if size += len(packed.Body) + len(packed.Signature); size > maxSpecs {
			return nil, usage("%s has more credentials than a scan can be handed: apply it, and scan without -f", file)
		}
		list = append(list, packed)
	}
	return list, nil
}

// scanned runs a scan and fetches all that it lists.
func scanned(ctx context.Context, c client.Client, in workflows.ScanInput, tell func(string)) (workflows.ScanReport, []policy.ScannedKey, error) {
	var report workflows.ScanReport
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.ScanID + "/" + uuid.NewString(), TaskQueue: workflows.TaskQueue,
		WorkflowExecutionTimeout: 2 * time.Hour, StaticSummary: "scan of issuer accounts",
	}, workflows.Scan, in)
	if err != nil {
		return report, nil, fmt.Errorf("starting the scan: %w", err)
	}
	tellOfSilence(ctx, c, workflows.TaskQueue, tell)
	if err := await(ctx, c, run, &report, "scanning", tell); err != nil {
		return report, nil, err
	}
	keys := report.Keys
	for page := 1; page < report.Pages; page++ {
		value, err := c.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), workflows.KeysName, page)
		if err != nil {
			return report, nil, fmt.Errorf("fetching what the scan found: %w", err)
		}
		var more []policy.ScannedKey
		if err := value.Get(&more); err != nil {
			return report, nil, fmt.Errorf("reading what the scan found: %w", err)
		}
		keys = append(keys, more...)
	}
	return report, keys, nil
}

// showScan prints what a scan found. An account that could not be scanned makes the command fail.
func (t *terminal) showScan(report workflows.ScanReport, keys []policy.ScannedKey) error {
	var err error
	if t.output == "csv" {
		err = scanCSV(t.out, keys)
	} else {
		report.Keys = keys
		err = t.show(report, func(w io.Writer) { t.printScan(w, report) })
	}
	if err != nil {
		return err
	}
	for _, a := range report.Accounts {
		if a.Problem != "" {
			if t.output == "table" {
				return exit(exitFailed, fmt.Errorf("account %s could not be scanned to its end: %s", a.Account, a.Problem))
			}
			return exit(exitFailed, nil)
		}
	}
	return nil
}

func (t *terminal) printScan(w io.Writer, r workflows.ScanReport) {
	rows := [][]string{{"CUSTODY", "ACCOUNT", "PRINCIPAL", "KEY", "STATE", "AGE", "LAST USED", "CREDENTIAL", "ALSO"}}
	for _, k := range r.Keys {
		rows = append(rows, []string{
			string(k.Custody), k.Account, k.Principal, k.KeyID, string(k.State), since(r.ScannedAt, k.CreatedAt), lastUse(r.ScannedAt, k.LastUsedAt), k.Credential, k.MarkText(),
		})
	}
	columns(w, rows...)
	fmt.Fprintf(w, "\n%s: %d managed, %d unmanaged, %d orphaned; %d disabled but alive, %d over age. Matched with %s.\n", t.bold("SCANNED"),
		r.Counts[string(policy.Managed)], r.Counts[string(policy.Unmanaged)], r.Counts[string(policy.Orphaned)],
		r.Counts[string(policy.MarkDisabled)], r.Counts[string(policy.MarkOverAge)], policy.Counted(r.Credentials, "credential"))
	for _, a := range r.Accounts {
		if a.OutOfBounds > 0 {
			fmt.Fprintf(w, "note: outside of the bounds of the worker configuration, and not looked at: %s of account %s\n", policy.Counted(a.OutOfBounds, "principal"), a.Account)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", outside.Text(n, outside.MaxText))
	}
	advised := map[string]bool{}
	for _, k := range r.Keys {
		if k.Advice != "" && !advised[k.Advice] && len(advised) < 20 {
			advised[k.Advice] = true
			fmt.Fprintf(w, "%s of %s: %s\n", outside.Text(k.KeyID, outside.MaxText), outside.Text(k.Principal, outside.MaxText), outside.Text(k.Advice, outside.MaxText))
		}
	}
}

// since is an age in days, or less.
func since(now, at time.Time) string {
	switch age := now.Sub(at); {
	case at.IsZero():
		return "unknown"
	case age < time.Minute:
		return "moments"
	case age < 24*time.Hour:
		return age.Round(time.Minute).String()
	default:
		return fmt.Sprintf("%dd", int(age.Hours()/24))
	}
}

func lastUse(now, at time.Time) string {
	if at.IsZero() {
		return "no recorded use"
	}
	return since(now, at) + " ago"
}

func scanCSV(w io.Writer, keys []policy.ScannedKey) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"custody", "account", "type", "principal", "key", "state", "created", "last_used", "last_used_by", "expires", "inventory", "credential", "standing", "also", "what_to_do"})
	for _, k := range keys {
		cells := []string{
			string(k.Custody), k.Account, k.Type, k.Principal, k.KeyID, string(k.State), stamp(k.CreatedAt), stamp(k.LastUsedAt), k.LastUsedBy, stamp(k.ExpiresAt),
			k.Inventory, k.Credential, string(k.Standing), k.MarkText(), k.Advice,
		}
		for i := range cells {
			cells[i] = cell(cells[i])
		}
		_ = out.Write(cells)
	}
	out.Flush()
	return out.Error()
}

// emit writes a beginning of an inventory, and overwrites nothing.
func (t *terminal) emit(file string, report workflows.ScanReport, keys []policy.ScannedKey) error {
	text, principals := beginning(keys, report.ScannedAt)
	if principals == 0 {
		fmt.Fprintln(t.err, "Nothing to emit: no principal without a credential has an active key.")
		return nil
	}
	if file == "-" {
		_, err := io.WriteString(t.out, text)
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return taken(file)
	}
	if err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the inventory: %w", err)
	}
	if !t.quiet {
		fmt.Fprintf(t.err, "Wrote %s with %s. Fill in each TODO, then: keyturn validate -f %s\n", file, policy.Counted(principals, "credential"), file)
	}
	return nil
}

func taken(file string) error {
	return usage("writing %s: it exists already; name another file", file)
}

// unclaimed are the active keys of one principal that no credential declares.
type unclaimed struct {
	account, typ, principal string
	environments            []string
	keys                    []policy.ScannedKey
}

// unclaimedKeys groups them, the longest in use first: what is old is looked at first.
func unclaimedKeys(keys []policy.ScannedKey) []unclaimed {
	var groups []unclaimed
	for _, k := range keys {
		if k.Credential != "" || k.Custody == policy.Managed || k.State != "active" {
			continue
		}
		i := slices.IndexFunc(groups, func(u unclaimed) bool { return u.account == k.Account && u.principal == k.Principal })
		if i < 0 {
			i = len(groups)
			groups = append(groups, unclaimed{account: k.Account, typ: k.Type, principal: k.Principal, environments: k.Environments})
		}
		groups[i].keys = append(groups[i].keys, k)
	}
	return groups
}

// beginning is YAML for what nobody declared. It is written by hand and not marshalled, since its comments are
// what it is about.
func beginning(keys []policy.ScannedKey, at time.Time) (text string, principals int) {
	groups := unclaimedKeys(keys)
	var b strings.Builder
	fmt.Fprintf(&b, `# Keys that nobody declared, found %s: a beginning of an inventory.
# Fill in each TODO, then: keyturn validate -f THIS_FILE
# The keys under adopt are retired by the first rotation; take out what does not belong to the credential.
apiVersion: keyturn/v1
inventory: found   # TODO: choose the name of the team's inventory

defaults:
  owner: ""        # TODO: whom to ask and to tell: an address, or the name of a team
  approvals:
    revoke: {from: [], count: 1}   # TODO: which approver groups of the worker configuration

credentials:
`, at.UTC().Format(time.RFC3339))
	taken := map[string]bool{}
	for _, g := range groups {
		fmt.Fprintf(&b, "  - name: %s\n", nameFor(g, taken))
		b.WriteString("    purpose: \"\"    # TODO: what the key is for\n")
		switch len(g.environments) {
		case 1:
			fmt.Fprintf(&b, "    environment: %s\n", scalar(g.environments[0]))
		default:
			fmt.Fprintf(&b, "    environment: \"\"    # TODO: which of %s\n", comment(strings.Join(g.environments, ", ")))
		}
		if g.typ == "awsiam" {
			b.WriteString("    scopes: []     # TODO: the policies that the user may have, by name or ARN\n")
			b.WriteString("    overlap: 48h\n    quietWindow: 6h   # IAM reports uses up to 4h15m late\n")
		}
		fmt.Fprintf(&b, "    issuer: {type: %s, account: %s, principal: %s}\n", scalar(g.typ), scalar(g.account), scalar(g.principal))
		fmt.Fprintf(&b, "    store: {type: \"\"}    # TODO: where the secret is kept, such as %s\n", storeHint(g))
		b.WriteString("    adopt:\n")
		for _, k := range g.keys {
			fmt.Fprintf(&b, "      - %s    # created %s, %s%s\n", scalar(k.KeyID), date(k.CreatedAt), usedText(k), orphanText(k))
		}
		b.WriteString("    consumers: []  # TODO: all who use it, each with target, check and attestation; or noConsumers: true\n\n")
	}
	// Not by ID: that of an AWS key stands nowhere but under adopt.
	said := func(about string, which func(policy.ScannedKey) (of string, is bool)) {
		counts := map[string]int{}
		for _, k := range keys {
			if of, is := which(k); is && k.Custody == policy.Unmanaged {
				counts[of]++
			}
		}
		if len(counts) > 0 {
			b.WriteString("# " + about + "; see which with: keyturn inventory scan\n")
		}
		for _, of := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, "#   %s: %s\n", comment(of), policy.Counted(counts[of], "key"))
		}
	}
	said("Keys of principals that these credentials declare already; name them there under adopt, if they are the credential's", func(k policy.ScannedKey) (string, bool) {
		return k.Credential, k.Credential != "" && k.State == "active"
	})
	said("Disabled keys of these principals are in no adopt above; destroy them at the issuer when nobody misses them", func(k policy.ScannedKey) (string, bool) {
		return k.Principal, k.Credential == "" && k.State == "disabled"
	})
	return b.String(), len(groups)
}

func storeHint(g unclaimed) string {
	if g.typ == "awsiam" {
		return "{type: awssecretsmanager, account: …, path: …}"
	}
	return "{type: file, account: …, path: …}"
}

func usedText(k policy.ScannedKey) string {
	if k.LastUsedAt.IsZero() {
		return "no recorded use"
	}
	return "last used " + date(k.LastUsedAt)
}

func orphanText(k policy.ScannedKey) string {
	if k.Custody == policy.Orphaned {
		return ", minted by keyturn"
	}
	return ""
}

func date(at time.Time) string {
	if at.IsZero() {
		return "at an unknown time"
	}
	return at.UTC().Format(time.DateOnly)
}

// nameFor makes a credential's name of a principal's.
func nameFor(g unclaimed, taken map[string]bool) string {
	var b strings.Builder
	for _, r := range strings.ToLower(g.principal) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' && !strings.HasSuffix(b.String(), ".") {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	const longest = 56 // leaves room for a number
	base := b.String()
	base = strings.Trim(base[:min(len(base), longest)], "-_.")
	if base == "" {
		base = "key"
	}
	name := base
	for n := 2; taken[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[name] = true
	return name
}

// scalar is a YAML scalar of a text from outside.
func scalar(s string) string { return fmt.Sprintf("%q", outside.Text(s, outside.MaxText)) }

// comment is a text from outside on one line of a comment.
func comment(s string) string { return outside.Text(s, outside.MaxText) }
