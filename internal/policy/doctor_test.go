package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
)

// healthy is an installation in which all is well.
func healthy() Installation {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	worker := func(name string) Diagnosis {
		return Diagnosis{Worker: name, Build: "v1", Digest: "0123456789abcdef", AuditFile: true, Accounts: []AccountProbe{{Name: "edge", Type: "gateway", Issuer: true}}}
	}
	polled := []Poller{{Worker: "a", Build: "v1", Seen: now}, {Worker: "b", Build: "v1", Seen: now}}
	return Installation{
		At: now, Address: "temporal:7233", Namespace: "keyturn", Problems: map[string]string{}, ServerVersion: "1.32.1", Retention: 90 * 24 * time.Hour, Build: "v1",
		Queues:  []Queue{{"keyturn", polled}, {"keyturn-account-edge", polled}},
		Workers: []Diagnosis{worker("a"), worker("b")},
		Sweep:   SweepSchedule{Found: true, Every: time.Hour, LastRun: now.Add(-time.Hour), LastEnd: now.Add(-time.Hour)},
	}
}

func TestExamine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change   func(*Installation)
		check    string
		state    CheckState
		says, do string
	}{
		"no connection":                          {func(i *Installation) { i.Problems[CheckConnection] = "refused" }, CheckConnection, CheckFailed, "refused", "--address"},
		"no connection: the rest is skipped":     {func(i *Installation) { i.Problems[CheckConnection] = "refused" }, CheckSweep, CheckSkipped, "needs a connection", ""},
		"a server without priorities":            {func(i *Installation) { i.ServerVersion = "1.29.4" }, CheckVersion, CheckFailed, "1.29.4", "upgrade"},
		"the first server with them":             {func(i *Installation) { i.ServerVersion = "1.30.0" }, CheckVersion, CheckOK, "1.30.0", ""},
		"a server of a later series":             {func(i *Installation) { i.ServerVersion = "2.0.0-rc1" }, CheckVersion, CheckOK, "2.0.0", ""},
		"the first server with them, tagged":     {func(i *Installation) { i.ServerVersion = "v1.30-rc.1" }, CheckVersion, CheckOK, "v1.30-rc.1", ""},
		"a server whose version only begins so":  {func(i *Installation) { i.ServerVersion = "1.30x" }, CheckVersion, CheckWarning, "1.30x", "priorities"},
		"a server that does not say":             {func(i *Installation) { i.ServerVersion = "cloud" }, CheckVersion, CheckWarning, "cloud", "priorities"},
		"no such namespace":                      {func(i *Installation) { i.Problems[CheckNamespace] = "none" }, CheckNamespace, CheckFailed, "none", "doctor again"},
		"no such namespace: no retention either": {func(i *Installation) { i.Problems[CheckNamespace] = "none" }, CheckRetention, CheckSkipped, "namespace", ""},
		"a retention shorter than asked for":     {func(i *Installation) { i.Workers[1].Retention = inventory.Duration(365 * 24 * time.Hour) }, CheckRetention, CheckFailed, "365d", "--retention 365d"},
		"a retention as long as asked for":       {func(i *Installation) { i.Workers[1].Retention = inventory.Duration(90 * 24 * time.Hour) }, CheckRetention, CheckOK, "90d", ""},
		"a short retention, and no audit file":   {func(i *Installation) { i.Retention, i.Workers[0].AuditFile = 72*time.Hour, false }, CheckRetention, CheckWarning, "the only record", "audit.file"},
		"a short retention, and an audit file":   {func(i *Installation) { i.Retention = 72 * time.Hour }, CheckRetention, CheckWarning, "in the audit file alone", "--retention 30d"},
		"a search attribute is missing":          {func(i *Installation) { i.AttributesMissing = []string{"KeyturnRisk"} }, CheckAttributes, CheckFailed, "KeyturnRisk", "keyturn setup"},
		"a search attribute has another type":    {func(i *Installation) { i.AttributesWrong = []string{"KeyturnRisk has type Int"} }, CheckAttributes, CheckFailed, "type Int", "search-attribute remove"},
		"no build is current":                    {func(i *Installation) { i.Build = "" }, CheckDeployment, CheckFailed, "no build", "--build-id"},
		"no worker":                              {func(i *Installation) { i.Workers = nil }, CheckWorkers, CheckFailed, "no worker runs", "start one"},
		"workers of another build alone":         {func(i *Installation) { i.Build = "v2" }, CheckWorkers, CheckFailed, "current build v2", "there are workers of v1"},
		"a worker of another build besides":      {func(i *Installation) { i.Workers[1].Build = "v2" }, CheckWorkers, CheckOK, "besides 1 of v2", ""},
		"a worker does not answer":               {func(i *Installation) { i.Silent = []string{"c"} }, CheckWorkers, CheckFailed, "no answer of c", "hang"},
		"a queue without pollers":                {func(i *Installation) { i.Queues[1].Pollers = nil }, CheckQueues, CheckFailed, "keyturn-account-edge", "start a worker"},
		"a queue with pollers of another build":  {func(i *Installation) { i.Queues[1].Pollers = []Poller{{Build: "v0"}} }, CheckQueues, CheckFailed, "keyturn-account-edge", "start a worker"},
		"workers with two configurations":        {func(i *Installation) { i.Workers[1].Digest = "fedcba9876543210" }, CheckConfig, CheckFailed, "0123456789ab at a; fedcba987654 at b", "same keyturn-worker.yaml"},
		"an audit sink that takes nothing": {func(i *Installation) {
			i.Workers[1].AuditSink, i.Workers[1].AuditWaits = true, "since noon: it answers 503"
		}, CheckAuditSink, CheckFailed, "b: since noon: it answers 503", "audit.sink"},
		"an audit sink that takes all":          {func(i *Installation) { i.Workers[1].AuditSink = true }, CheckAuditSink, CheckOK, "handed over", ""},
		"a file of signers that cannot be read": {func(i *Installation) { i.Workers[0].Trust = []string{"no such file"} }, CheckTrust, CheckFailed, "a: no such file", "allowed signers"},
		"a worker that takes unsigned specs":    {func(i *Installation) { i.Workers[0].AllowUnsigned = true }, CheckTrust, CheckWarning, "unsigned", "--allow-unsigned"},
		"a clock that is a little off":          {func(i *Installation) { i.Workers[0].Ahead = -4 * time.Second }, CheckClocks, CheckWarning, "clock of a is 4s off", "synchronise"},
		"a clock that is off":                   {func(i *Installation) { i.Workers[0].Ahead = time.Minute }, CheckClocks, CheckFailed, "1m0s", "synchronise"},
		"the own clock is off":                  {func(i *Installation) { i.Ahead = time.Hour }, CheckClocks, CheckFailed, "this machine", "synchronise"},
		"an account that is not reached":        {func(i *Installation) { i.Workers[1].Accounts[0].Problem = "refused" }, "account edge", CheckFailed, "b cannot use it: refused", "reaches it"},
		"a right that is lacking":               {func(i *Installation) { i.Workers[1].Accounts[0].Lacks = []string{"iam:X"} }, "account edge", CheckFailed, "iam:X", "these rights"},
		"a right that could not be tried": {func(i *Installation) {
			i.Workers[1].Accounts[0].As, i.Workers[1].Accounts[0].Untried = "me", []string{"iam:X"}
		}, "account edge", CheckOK, "as me; iam:X", ""},
		"an account of a type that cannot be tried": {func(i *Installation) { i.Workers[0].Accounts[0].Untryable = true }, "account edge", CheckOK, "cannot be tried", ""},
		"no Schedule of Sweep":                      {func(i *Installation) { i.Sweep = SweepSchedule{} }, CheckSweep, CheckFailed, "nothing sweeps", "keyturn setup"},
		"a paused one":                              {func(i *Installation) { i.Sweep.Paused, i.Sweep.Note = true, "for the move" }, CheckSweep, CheckWarning, "for the move", "unpause"},
		"one that has not run for long":             {func(i *Installation) { i.Sweep.LastRun = i.At.Add(-4 * time.Hour) }, CheckSweep, CheckFailed, "has not begun since", "Web UI"},
		"one that has not run yet": {func(i *Installation) {
			i.Sweep = SweepSchedule{Found: true, Every: time.Hour, Created: i.At.Add(-time.Minute)}
		}, CheckSweep, CheckOK, "none has ended yet", ""},
		"one that begins and does not end": {func(i *Installation) { i.Sweep.LastEnd = i.At.Add(-4 * time.Hour) }, CheckSweep, CheckFailed, "none has ended since 2026-03-01T08:00:00Z", "Web UI"},
		"one that was late, within bounds": {func(i *Installation) { i.Sweep.LastEnd = i.At.Add(-150 * time.Minute) }, CheckSweep, CheckOK, "last one ended", ""},
		"one that fails": {func(i *Installation) { i.Sweep.Failing = SweepsFailed{2, i.At.Add(-time.Hour), "no slots"} },
			CheckSweep, CheckFailed, "the sweeps since 2026-03-01T11:00:00Z failed (2): no slots", "keyturn sweep --now"},
		"one that never ran": {func(i *Installation) {
			i.Sweep = SweepSchedule{Found: true, Every: time.Hour, Created: i.At.Add(-24 * time.Hour)}
		}, CheckSweep, CheckFailed, "has not begun since", "Web UI"},
		"something that this user of Temporal may not ask": {func(i *Installation) { i.Problems[CheckSweep] = "permission denied" }, CheckSweep, CheckFailed, "permission denied", "may ask"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := healthy()
			c.change(&i)
			checks := Examine(i)
			assert.Equal(t, c.state == CheckFailed || c.state == CheckSkipped, Failed(checks))
			found := false
			for _, check := range checks {
				if check.State == CheckFailed || check.State == CheckWarning {
					assert.NotEmpty(t, check.Do, "%s says what to do", check.Name)
				} else {
					assert.Empty(t, check.Do)
				}
				if check.Name != c.check {
					continue
				}
				found = true
				assert.Equal(t, c.state, check.State, check.Message)
				assert.Contains(t, check.Message, c.says)
				assert.Contains(t, check.Do, c.do)
			}
			assert.True(t, found)
		})
	}
	checks := Examine(healthy())
	assert.False(t, Failed(checks))
	for _, check := range checks {
		assert.Equal(t, CheckOK, check.State, check.Name+": "+check.Message)
	}
}

func FuzzServerVersion(f *testing.F) {
	for _, seed := range []string{"1.32.1", "v1.30", "1.29.4", "2.0.0-rc1", "cloud", "", "+1.30", "1.-30", " 1.30", "1.99999999999999999999", "1.30\x1b[2J", "1.30\n1.29"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, version string) {
		i := healthy()
		i.ServerVersion = version
		check := Examine(i)[1]
		if check.Name != CheckVersion {
			check = Examine(i)[0]
		}
		assert.Equal(t, CheckVersion, check.Name)
		assert.Less(t, len(check.Message), 2048, "a message repeats little of what a server says")
		assert.False(t, strings.ContainsFunc(check.Message, func(c rune) bool { return !unicode.IsPrint(c) }), "nor what a terminal obeys: %q", check.Message)
		if check.State == CheckOK {
			var major, minor int
			_, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &major, &minor)
			assert.NoError(t, err)
			assert.True(t, major > leastMajor || major == leastMajor && minor >= leastMinor, version)
		}
	})
}
