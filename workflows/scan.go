package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// ScanID is the ID of the scan that people ask for: one at a time.
const ScanID = "scan"

// KeysName is the query that returns a page of a scan's keys, from 0.
const KeysName = "keys"

// ScanInput begins a scan.
type ScanInput struct {
	// Accounts of the worker configuration; all that can be scanned when empty.
	Accounts []string `json:"accounts,omitempty"`
	// Specs are the credentials to match with, instead of those that are applied.
	Specs []inventory.SignedSpec `json:"specs,omitempty"`
	// MaxAge is how old a key may be that nobody declared; 90d when zero.
	MaxAge inventory.Duration `json:"maxAge,omitzero"`
	// ByName: credentials are matched by the names of their principals alone, without a look at their stores.
	ByName bool `json:"byName,omitempty"`
	// Forsaken: only keys that are not managed are listed; the others are counted.
	Forsaken bool `json:"forsaken,omitempty"`
}

// AccountScan is what a scan saw of an account.
type AccountScan struct {
	Account string `json:"account"`
	Type    string `json:"type"`
	Keys    int    `json:"keys"`
	// OutOfBounds counts principals that were not looked at, since no bounds allow them.
	OutOfBounds int `json:"outOfBounds,omitempty"`
	// Problem is why the account could not be scanned to its end.
	Problem string `json:"problem,omitempty"`
}

// ScanReport is the result of a scan.
type ScanReport struct {
	ScannedAt time.Time     `json:"scannedAt"`
	Accounts  []AccountScan `json:"accounts"`
	// Credentials is how many were matched with.
	Credentials int `json:"credentials"`
	// Counts are by custody and by mark.
	Counts policy.Count `json:"counts"`
	// Keys is the first page of them, those that need somebody first; the query "keys" has all Pages.
	Keys  []policy.ScannedKey `json:"keys"`
	Pages int                 `json:"pages"`
	// Notes are what else to know: what was left out, and why.
	Notes []string `json:"notes,omitempty"`
}

const (
	// rowsAPage bounds a page of a scan's keys to well below what Temporal lets pass (2 MB).
	rowsAPage = 1500
	// maxRows bounds what a scan keeps; keys beyond are counted only.
	maxRows = 50_000
	// surveyed is how many credentials one activity looks at.
	surveyed = 20
	// listed is how many applied credentials are listed at once: some 300 KB.
	listed = 2000
	// scansAtOnce bounds the activities of a scan or a sweep that run at the same time.
	scansAtOnce = 4
	// defaultMaxAge is how old a key may be that nobody declared.
	defaultMaxAge = 90 * 24 * time.Hour
)

// scan is the state of one run.
type scan struct {
	ctx          workflow.Context
	in           ScanInput
	accounts     map[string]activities.Account
	declarations policy.Declarations
	report       ScanReport
	rows         []policy.ScannedKey
	turn         workflow.Semaphore
}

// Scan lists the keys that issuer accounts have, and says of each who looks after it. It changes nothing.
func Scan(ctx workflow.Context, in ScanInput) (ScanReport, error) {
	s := &scan{ctx: ctx, in: in, accounts: map[string]activities.Account{}, turn: workflow.NewSemaphore(ctx, scansAtOnce)}
	s.report = ScanReport{ScannedAt: workflow.Now(ctx), Counts: policy.Count{}, Keys: []policy.ScannedKey{}}
	err := workflow.SetQueryHandlerWithOptions(ctx, KeysName, s.page, workflow.QueryHandlerOptions{Description: "a page of the keys that were found, from 0"})
	if err != nil {
		return s.report, err
	}
	if err := s.run(); err != nil {
		return s.report, err
	}
	s.close()
	return s.report, nil
}

func (s *scan) run() error {
	wanted, err := s.wanted()
	if err != nil {
		return err
	}
	declared, err := s.declared()
	if err != nil {
		return err
	}
	s.report.Credentials = len(declared)
	s.declarations = policy.Declare(declared)
	s.report.Accounts = make([]AccountScan, len(wanted))
	all := workflow.NewWaitGroup(s.ctx)
	for i, account := range wanted {
		s.report.Accounts[i] = AccountScan{Account: account.Name, Type: account.Type}
		all.Add(1)
		workflow.Go(s.ctx, func(ctx workflow.Context) {
			defer all.Done()
			s.account(ctx, account, &s.report.Accounts[i])
		})
	}
	all.Wait(s.ctx)
	return s.ctx.Err()
}

// wanted are the accounts to scan.
func (s *scan) wanted() ([]activities.Account, error) {
	var list []activities.Account
	var known []activities.Account
	if err := asking.start(s.ctx, TaskQueue, act.Accounts, nil).Get(s.ctx, &known); err != nil {
		return nil, err
	}
	for _, a := range known {
		s.accounts[a.Name] = a
		if len(s.in.Accounts) == 0 && a.CanList {
			list = append(list, a)
		}
	}
	for _, name := range s.in.Accounts {
		a, ok := s.accounts[name]
		if !ok || !a.CanList {
			a.Name = name // the activity says what is wrong with it
		}
		list = append(list, a)
	}
	if len(list) == 0 {
		s.note("the worker configuration has no issuer account that can be scanned")
	}
	return list, nil
}

// queue is where calls to an account go.
func (s *scan) queue(account string) string {
	if s.accounts[account].Quota {
		return AccountQueue(account)
	}
	return TaskQueue
}

// declared are the credentials to match with.
func (s *scan) declared() ([]policy.Declared, error) {
	s.show("Looking at the stores of the credentials that are declared.")
	var declared []policy.Declared
	if len(s.in.Specs) > 0 {
		byAccount := map[string][]inventory.SignedSpec{}
		for _, signed := range s.in.Specs {
			account := ""
			if spec, err := signed.Peek(); err == nil {
				account = spec.Credential.Issuer.Account
			}
			byAccount[account] = append(byAccount[account], signed)
		}
		declared = survey(s, byAccount, func(batch []inventory.SignedSpec) activities.SurveyInput {
			return activities.SurveyInput{Specs: batch, ByName: s.in.ByName}
		})
		return sorted(declared), s.ctx.Err()
	}
	var after activities.Named
	for {
		var entries []activities.Entry
		if err := listing.start(s.ctx, TaskQueue, act.ListApplied, activities.ListAppliedInput{After: after, Limit: listed}).Get(s.ctx, &entries); err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			return sorted(declared), s.ctx.Err()
		}
		after = entries[len(entries)-1].Named
		byAccount := map[string][]activities.Named{}
		for _, e := range entries {
			if s.in.ByName {
				declared = append(declared, policy.Declared{
					Inventory: e.Inventory, Credential: e.Credential, Account: e.Account, Principals: e.Principals, RotateEvery: e.RotateEvery,
				})
			} else {
				byAccount[e.Account] = append(byAccount[e.Account], e.Named)
			}
		}
		declared = append(declared, survey(s, byAccount, func(batch []activities.Named) activities.SurveyInput {
			return activities.SurveyInput{Named: batch}
		})...)
	}
}

func sorted(declared []policy.Declared) []policy.Declared {
	slices.SortFunc(declared, func(a, b policy.Declared) int {
		return cmp.Or(cmp.Compare(a.Credential, b.Credential), cmp.Compare(a.Inventory, b.Inventory))
	})
	return declared
}

// survey looks at credentials, batch by batch, each on its issuer account's queue.
func survey[T any](s *scan, byAccount map[string][]T, input func([]T) activities.SurveyInput) []policy.Declared {
	var declared []policy.Declared
	all := workflow.NewWaitGroup(s.ctx)
	for _, account := range workflow.DeterministicKeys(byAccount) {
		for batch := range slices.Chunk(byAccount[account], surveyed) {
			all.Add(1)
			workflow.Go(s.ctx, func(ctx workflow.Context) {
				defer all.Done()
				var answers []policy.Declared
				if err := s.ask(ctx, surveying, account, act.Survey, input(batch), &answers); err != nil {
					s.note("%s could not be looked at: %s", policy.Counted(len(batch), "credential"), cause(err))
					return
				}
				declared = append(declared, answers...)
				for _, d := range answers {
					if d.Problem != "" && len(d.Principals) == 0 { // no key will tell of it
						s.note("%s of inventory %s could not be looked at: %s", d.Credential, d.Inventory, d.Problem)
					}
				}
			})
		}
	}
	all.Wait(s.ctx)
	return declared
}

// ask runs an activity on an account's queue, a bounded number of them at once.
func (s *scan) ask(ctx workflow.Context, o step, account string, activity, input, output any) error {
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.turn.Release(1)
	return o.start(ctx, s.queue(account), activity, input).Get(ctx, output)
}

// account scans one account, page by page.
func (s *scan) account(ctx workflow.Context, account activities.Account, seen *AccountScan) {
	maxAge := cmp.Or(s.in.MaxAge.Std(), defaultMaxAge)
	for from := (&activities.ScanCursor{}); from != nil; {
		var page activities.ScanPage
		input := activities.ScanAccountInput{Account: account.Name, From: *from}
		if err := s.ask(ctx, scanning, account.Name, act.ScanAccount, input, &page); err != nil {
			seen.Problem = cause(err)
			return
		}
		from = page.Next
		seen.OutOfBounds += page.OutOfBounds
		seen.Keys += len(page.Keys)
		for _, k := range page.Keys {
			s.add(s.declarations.Judge(k, maxAge, workflow.Now(ctx)))
		}
		s.show(fmt.Sprintf("Scanning %s: %s so far.", account.Name, policy.Counted(seen.Keys, "key")))
	}
}

func (s *scan) add(k policy.ScannedKey) {
	s.report.Counts.Add(k)
	if s.in.Forsaken && k.Custody == policy.Managed {
		return
	}
	if len(s.rows) >= maxRows {
		return
	}
	s.rows = append(s.rows, k)
}

// close sorts what was found and makes the report.
func (s *scan) close() {
	rank := map[policy.Custody]int{policy.Orphaned: 0, policy.Unmanaged: 1, policy.Managed: 2}
	slices.SortFunc(s.rows, func(a, b policy.ScannedKey) int {
		return cmp.Or(rank[a.Custody]-rank[b.Custody], len(b.Marks)-len(a.Marks), cmp.Compare(a.Account, b.Account),
			cmp.Compare(a.Principal, b.Principal), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.KeyID, b.KeyID))
	})
	if len(s.rows) == maxRows {
		s.note("more than %d keys: those beyond are counted, and not listed; scan one account at a time with --account", maxRows)
	}
	s.report.Pages = (len(s.rows) + rowsAPage - 1) / rowsAPage
	s.report.Keys, _ = s.page(0)
	workflow.SetCurrentDetails(s.ctx, s.report.Markdown())
}

// page is the query "keys".
func (s *scan) page(n int) ([]policy.ScannedKey, error) {
	begin := n * rowsAPage
	if n < 0 || begin >= len(s.rows) {
		return []policy.ScannedKey{}, nil
	}
	return s.rows[begin:min(begin+rowsAPage, len(s.rows))], nil
}

func (s *scan) note(format string, args ...any) {
	if len(s.report.Notes) < 50 {
		s.report.Notes = append(s.report.Notes, clip(fmt.Sprintf(format, args...)))
	}
}

func (s *scan) show(doing string) { workflow.SetCurrentDetails(s.ctx, "### Scan\n\n"+text(doing)) }

// shownRows is how many keys the Web UI shows.
const shownRows = 100

// Markdown is the report as the Web UI shows it.
func (r ScanReport) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("### Scan: %d managed, %d unmanaged, %d orphaned\n", r.Counts[string(policy.Managed)], r.Counts[string(policy.Unmanaged)], r.Counts[string(policy.Orphaned)])
	line("| account | type | keys | principals out of bounds | problem |\n|---|---|---|---|---|")
	for _, a := range r.Accounts {
		line("| %s | %s | %d | %d | %s |", text(a.Account), text(a.Type), a.Keys, a.OutOfBounds, text(a.Problem))
	}
	for _, n := range r.Notes {
		line("\n> %s", text(n))
	}
	line("\n| custody | key | principal | created | last used | what to do |\n|---|---|---|---|---|---|")
	for i, k := range r.Keys {
		if i == shownRows {
			line("\nand more: keyturn inventory scan")
			break
		}
		line("| %s | %s | %s | %s | %s | %s |", text(strings.TrimSuffix(string(k.Custody)+", "+k.MarkText(), ", ")), text(k.KeyID), text(k.Account+"/"+k.Principal), date(k.CreatedAt), date(k.LastUsedAt), text(k.Advice))
	}
	return b.String()
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}
