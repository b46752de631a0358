package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
)

// Diagnosis is what one worker says of itself.
type Diagnosis struct {
	// Worker is its identity, as Temporal shows it.
	Worker string `json:"worker"`
	Build  string `json:"build"`
	// Digest names the worker configuration in force.
	Digest string `json:"digest"`
	// Ahead is its clock less that of Temporal; the time that the question took may be part of it.
	Ahead time.Duration `json:"ahead"`
	// AuditFile: it keeps the audit record beside Temporal's history.
	AuditFile bool `json:"auditFile"`
	// AuditSink: it hands copies of audit events over to a sink; AuditWaits is why some wait, empty while none do.
	AuditSink  bool   `json:"auditSink,omitempty"`
	AuditWaits string `json:"auditWaits,omitempty"`
	// Retention is what the configuration asks of the namespace; zero for nothing.
	Retention inventory.Duration `json:"retention,omitzero"`
	// AllowUnsigned: it takes unsigned specs for environments without trusted signers.
	AllowUnsigned bool `json:"allowUnsigned,omitempty"`
	// Trust is what is wrong with the files of signers.
	Trust    []string       `json:"trust,omitempty"`
	Accounts []AccountProbe `json:"accounts"`
}

// AccountProbe is an account as one worker reaches it.
type AccountProbe struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Quota bool   `json:"quota,omitempty"`
	// Issuer: it is one of an issuer, which has a queue of its own.
	Issuer bool `json:"issuer,omitempty"`
	// Problem is why it is not reached, Untryable that its type cannot be tried.
	Problem   string `json:"problem,omitempty"`
	Untryable bool   `json:"untryable,omitempty"`
	// As is who the worker is there; empty where nobody asks.
	As string `json:"as,omitempty"`
	// Lacks are rights that the worker lacks, as sentences that say what to do; Untried those that could not be tried without
	// changing something.
	Lacks   []string `json:"lacks,omitempty"`
	Untried []string `json:"untried,omitempty"`
}

// Poller is somebody who takes tasks of a queue.
type Poller struct {
	Worker string    `json:"worker"`
	Build  string    `json:"build"`
	Seen   time.Time `json:"seen"`
}

// Queue is a task queue that is needed, with its pollers.
type Queue struct {
	Name    string   `json:"name"`
	Pollers []Poller `json:"pollers,omitempty"`
}

// Installation is all that doctor looks at. What could not be asked is told of in Problems, by the check.
type Installation struct {
	At        time.Time
	Address   string
	Namespace string
	// Problems say why something could not be asked.
	Problems map[string]string

	ServerVersion string
	Retention     time.Duration
	// AttributesMissing and AttributesWrong are search attributes.
	AttributesMissing, AttributesWrong []string
	// Build is the current one; empty for none.
	Build  string
	Queues []Queue
	// Workers answered, Silent ones did not.
	Workers []Diagnosis
	Silent  []string
	// Ahead is the clock of the machine that asks, less that of Temporal.
	Ahead time.Duration
	Sweep SweepSchedule
}

// SweepSchedule is the Schedule of Sweep.
type SweepSchedule struct {
	Found   bool
	Paused  bool
	Note    string
	Every   time.Duration
	LastRun time.Time
	Created time.Time
	// LastEnd is when a sweep ended well last, as far as Temporal remembers; Failing is about those since.
	LastEnd time.Time
	Failing SweepsFailed
}

// SweepsFailed tells of the sweeps that failed since the last one that ended well; the zero one of none.
type SweepsFailed struct {
	Runs int `json:"runs"`
	// Since is when the first of them began, Cause why the latest failed.
	Since time.Time `json:"since"`
	Cause string    `json:"cause"`
}

// String says it to people.
func (f SweepsFailed) String() string {
	return fmt.Sprintf("the sweeps since %s failed (%d): %s", f.Since.UTC().Format(time.RFC3339), f.Runs, f.Cause)
}

// CheckState is how a check went.
type CheckState string

// The states of a check.
const (
	CheckOK      CheckState = "ok"
	CheckWarning CheckState = "warning"
	CheckFailed  CheckState = "failed"
	// CheckSkipped: it needs something that failed before.
	CheckSkipped CheckState = "skipped"
)

// The names of the checks.
const (
	CheckConnection = "connection"
	CheckVersion    = "server version"
	CheckNamespace  = "namespace"
	CheckRetention  = "retention"
	CheckAuditSink  = "audit sink"
	CheckAttributes = "search attributes"
	CheckDeployment = "deployment"
	CheckWorkers    = "workers"
	CheckQueues     = "task queues"
	CheckConfig     = "worker configuration"
	CheckTrust      = "trust"
	CheckClocks     = "clocks"
	CheckAccounts   = "accounts"
	CheckSweep      = "sweep"
)

// Check is one answer of doctor: what is so, and when that is not well, what to do.
type Check struct {
	Name  string     `json:"name"`
	State CheckState `json:"state"`
	// Message says what is so.
	Message string `json:"message"`
	// Do says what to do; empty when all is well.
	Do string `json:"do,omitempty"`
}

// leastMajor and leastMinor are the least version of a server that has priorities of tasks on by default, which emergencies need.
const leastMajor, leastMinor = 1, 30

// Bounds of what is well.
const (
	// clockWarning and clockOff are how far a clock may be off: mint intents and signatures are compared with other clocks.
	clockWarning, clockOff = 3 * time.Second, 15 * time.Second
	// shortRetention is too little when histories are the only record.
	shortRetention = 30 * 24 * time.Hour
)

// Examine judges an installation, check by check, in the order in which one builds on the other.
func Examine(i Installation) []Check {
	e := examination{i: i}
	if why := i.Problems[CheckConnection]; why != "" {
		e.failed(CheckConnection, why, "see that Temporal runs and is reached there; say where it is with --address, TEMPORAL_ADDRESS or --profile")
		for _, name := range []string{CheckVersion, CheckNamespace, CheckRetention, CheckAttributes, CheckDeployment, CheckWorkers, CheckQueues, CheckConfig, CheckAuditSink, CheckTrust, CheckClocks, CheckAccounts, CheckSweep} {
			e.add(name, CheckSkipped, "it needs a connection", "")
		}
		return e.checks
	}
	e.ok(CheckConnection, "Temporal answers at %s", i.Address)
	for _, check := range []struct {
		name string
		run  func()
	}{
		{CheckVersion, e.version}, {CheckNamespace, e.namespace}, {CheckRetention, e.retention}, {CheckAttributes, e.attributes},
		{CheckDeployment, e.deployment}, {CheckWorkers, e.workers}, {CheckQueues, e.queues}, {CheckConfig, e.config}, {CheckAuditSink, e.auditSink}, {CheckTrust, e.trust}, {CheckClocks, e.clocks},
		{CheckAccounts, e.accounts}, {CheckSweep, e.sweep},
	} {
		if why := i.Problems[check.name]; why != "" {
			e.failed(check.name, "it could not be asked: "+why, "see whether this user of Temporal may ask that, and run doctor again")
			continue
		}
		check.run()
	}
	return e.checks
}

// Failed tells whether any check failed.
func Failed(checks []Check) bool {
	return slices.ContainsFunc(checks, func(c Check) bool { return c.State == CheckFailed })
}

type examination struct {
	i      Installation
	checks []Check
}

func (e *examination) add(name string, state CheckState, message, do string) {
	e.checks = append(e.checks, Check{Name: name, State: state, Message: message, Do: do})
}

func (e *examination) ok(name, format string, args ...any) {
	e.add(name, CheckOK, fmt.Sprintf(format, args...), "")
}

func (e *examination) failed(name, message, do string) { e.add(name, CheckFailed, message, do) }

// versionForm is how Temporal's server calls its version.
var versionForm = regexp.MustCompile(`^v?(\d{1,4})\.(\d{1,4})(?:\.|-|$)`)

// version goes by what the server says of itself, which may be anything.
func (e *examination) version() {
	says := outside.Text(e.i.ServerVersion, outside.MaxText)
	m := versionForm.FindStringSubmatch(e.i.ServerVersion)
	if m == nil {
		e.add(CheckVersion, CheckWarning, fmt.Sprintf("the server calls its version %q, which says nothing", says), fmt.Sprintf("see that it has what Temporal %d.%d has: priorities of tasks", leastMajor, leastMinor))
		return
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < leastMajor || major == leastMajor && minor < leastMinor {
		e.failed(CheckVersion, fmt.Sprintf("Temporal is %s; emergencies need the priorities that %d.%d and newer have", says, leastMajor, leastMinor), "upgrade Temporal's server")
		return
	}
	e.ok(CheckVersion, "Temporal is %s", says)
}

func (e *examination) namespace() { e.ok(CheckNamespace, "namespace %s is there", e.i.Namespace) }

func (e *examination) attributes() {
	switch {
	case len(e.i.AttributesWrong) > 0:
		e.failed(CheckAttributes, strings.Join(e.i.AttributesWrong, "; "), "remove them with: temporal operator search-attribute remove --name NAME; and run: keyturn setup")
	case len(e.i.AttributesMissing) > 0:
		e.failed(CheckAttributes, "missing are "+strings.Join(e.i.AttributesMissing, ", ")+": no worker starts without them", "run: keyturn setup")
	default:
		e.ok(CheckAttributes, "all are registered, with the right types")
	}
}

func (e *examination) deployment() {
	if e.i.Build == "" {
		e.failed(CheckDeployment, "no build is current: no workflow goes on", "run: keyturn setup --build-id BUILD, with what the worker says at its start")
		return
	}
	e.ok(CheckDeployment, "build %s is current", e.i.Build)
}

func (e *examination) workers() {
	current := 0
	builds := map[string]int{}
	for _, w := range e.i.Workers {
		builds[w.Build]++
		if w.Build == e.i.Build {
			current++
		}
	}
	switch {
	case len(e.i.Workers) == 0 && len(e.i.Silent) == 0:
		e.failed(CheckWorkers, "no worker runs: rotations stand still, and lose nothing", "start one: keyturn-worker --config keyturn-worker.yaml")
	case current == 0:
		e.failed(CheckWorkers, fmt.Sprintf("no worker of the current build %s answers: rotations stand still, and lose nothing", e.i.Build),
			"start a worker of that build, or make another current: keyturn setup --build-id BUILD"+seenBuilds(builds))
	case len(e.i.Silent) > 0:
		e.failed(CheckWorkers, "no answer of "+strings.Join(e.i.Silent, ", "),
			"see whether they hang or were killed within the last minutes; in that case run doctor again a little later")
	default:
		e.ok(CheckWorkers, "%s of build %s%s", Counted(current, "worker"), e.i.Build, others(builds, e.i.Build))
	}
}

func seenBuilds(builds map[string]int) string {
	if len(builds) == 0 {
		return ""
	}
	return "; there are workers of " + strings.Join(sortedKeys(builds), ", ")
}

func others(builds map[string]int, current string) string {
	var list []string
	for _, b := range sortedKeys(builds) {
		if b != current {
			list = append(list, fmt.Sprintf("%d of %s", builds[b], b))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return ", besides " + strings.Join(list, ", ")
}

func sortedKeys[T any](m map[string]T) []string {
	var list []string
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

func (e *examination) queues() {
	if len(e.i.Workers) == 0 {
		e.add(CheckQueues, CheckSkipped, "it needs a worker", "")
		return
	}
	var empty []string
	for _, q := range e.i.Queues {
		if !slices.ContainsFunc(q.Pollers, func(p Poller) bool { return p.Build == e.i.Build }) {
			empty = append(empty, q.Name)
		}
	}
	if len(empty) > 0 {
		e.failed(CheckQueues, "nobody of the current build polls "+strings.Join(empty, ", ")+": what goes there waits",
			"start a worker of the current build whose configuration has these accounts")
		return
	}
	e.ok(CheckQueues, "all %d have pollers of the current build", len(e.i.Queues))
}

func (e *examination) config() {
	if len(e.i.Workers) == 0 {
		e.add(CheckConfig, CheckSkipped, "it needs a worker", "")
		return
	}
	digests := map[string][]string{}
	for _, w := range e.i.Workers {
		digests[w.Digest] = append(digests[w.Digest], w.Worker)
	}
	if len(digests) > 1 {
		var sides []string
		for _, d := range sortedKeys(digests) {
			sides = append(sides, fmt.Sprintf("%.12s at %s", d, strings.Join(digests[d], ", ")))
		}
		e.failed(CheckConfig, "workers differ: "+strings.Join(sides, "; "), "give all workers the same keyturn-worker.yaml, and send them SIGHUP or restart them")
		return
	}
	for digest := range digests {
		e.ok(CheckConfig, "all workers have the same, %.12s", digest)
	}
}

func (e *examination) trust() {
	if len(e.i.Workers) == 0 {
		e.add(CheckTrust, CheckSkipped, "it needs a worker", "")
		return
	}
	var wrong []string
	unsigned := false
	for _, w := range e.i.Workers {
		for _, t := range w.Trust {
			wrong = append(wrong, w.Worker+": "+t)
		}
		unsigned = unsigned || w.AllowUnsigned
	}
	switch {
	case len(wrong) > 0:
		e.failed(CheckTrust, strings.Join(wrong, "; "), "mend the allowed signers files under trust of the worker configuration; ssh-keygen(1), ALLOWED SIGNERS, has their form")
	case unsigned:
		e.add(CheckTrust, CheckWarning, "a worker takes unsigned specs: whoever may write to the namespace can rotate within its bounds", "name who signs under trust, and start workers without --allow-unsigned")
	default:
		e.ok(CheckTrust, "specs must be signed, and the files of signers can be read")
	}
}

func (e *examination) clocks() {
	worst, who := e.i.Ahead, "this machine"
	for _, w := range e.i.Workers {
		if w.Ahead.Abs() > worst.Abs() {
			worst, who = w.Ahead, w.Worker
		}
	}
	text := fmt.Sprintf("the clock of %s is %s off that of Temporal", who, worst.Abs().Round(time.Millisecond))
	const do = "let that host synchronise its clock (chrony, systemd-timesyncd): ages, signatures and mint intents are judged by it"
	switch {
	case worst.Abs() > clockOff:
		e.failed(CheckClocks, text, do)
	case worst.Abs() > clockWarning:
		e.add(CheckClocks, CheckWarning, text, do)
	default:
		e.ok(CheckClocks, "none is off that of Temporal by more than %s", clockWarning)
	}
}

func (e *examination) accounts() {
	if len(e.i.Workers) == 0 {
		e.add(CheckAccounts, CheckSkipped, "it needs a worker", "")
		return
	}
	type seen struct {
		AccountProbe
		worker string
	}
	byName := map[string][]seen{}
	for _, w := range e.i.Workers {
		for _, a := range w.Accounts {
			byName[a.Name] = append(byName[a.Name], seen{a, w.Worker})
		}
	}
	for _, name := range sortedKeys(byName) {
		check := "account " + name
		var problems, lacks, untried []string
		as := ""
		for _, a := range byName[name] {
			if a.Problem != "" {
				problems = append(problems, fmt.Sprintf("%s cannot use it: %s", a.worker, a.Problem))
			}
			lacks, untried, as = append(lacks, a.Lacks...), append(untried, a.Untried...), cmp.Or(as, a.As)
		}
		typ := byName[name][0].Type
		for _, list := range []*[]string{&lacks, &untried} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
		switch {
		case len(problems) > 0:
			e.failed(check, strings.Join(problems, "; "), "see that the worker's host reaches it, and that its credentials are right; then run doctor again")
		case len(lacks) > 0:
			e.failed(check, strings.Join(lacks, "; "), "give the worker these rights, and no others; docs/aws.md lists them for AWS")
		case byName[name][0].Untryable:
			e.ok(check, "type %s cannot be tried without changing something", typ)
		default:
			text := "type " + typ + ", reached"
			if as != "" {
				text += " as " + as
			}
			if len(untried) > 0 {
				text += "; " + strings.Join(untried, "; ")
			}
			e.ok(check, "%s", text)
		}
	}
}

// sweepLate is how many intervals Sweep may be late.
const sweepLate = 3

func (e *examination) sweep() {
	s := e.i.Sweep
	late := func(last time.Time) bool {
		last = latest(last, s.Created)
		return s.Every > 0 && !last.IsZero() && e.i.At.Sub(last) > sweepLate*s.Every
	}
	const see = "see its last run in the Web UI: it may wait for a worker of the current build"
	switch {
	case !s.Found:
		e.failed(CheckSweep, "nothing sweeps: overdue credentials, debt and stuck rotations go unseen", "run: keyturn setup")
	case s.Paused:
		e.add(CheckSweep, CheckWarning, "the Schedule of Sweep is paused: "+cmp.Or(s.Note, "no reason given"), "run: temporal schedule toggle --schedule-id keyturn/sweep --unpause --reason WHY")
	case s.Failing.Runs > 0:
		e.failed(CheckSweep, s.Failing.String(), "mend what the cause names, and see that one ends well: keyturn sweep --now")
	case late(s.LastRun):
		e.failed(CheckSweep, fmt.Sprintf("Sweep is to run every %s and has not begun since %s", inventory.Duration(s.Every), latest(s.LastRun, s.Created).UTC().Format(time.RFC3339)), see)
	case late(s.LastEnd):
		e.failed(CheckSweep, fmt.Sprintf("Sweep is to run every %s and none has ended since %s", inventory.Duration(s.Every), latest(s.LastEnd, s.Created).UTC().Format(time.RFC3339)), see)
	case s.LastEnd.IsZero():
		e.ok(CheckSweep, "every %s; none has ended yet", inventory.Duration(s.Every))
	default:
		e.ok(CheckSweep, "every %s; the last one ended %s", inventory.Duration(s.Every), s.LastEnd.UTC().Format(time.RFC3339))
	}
}
