package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/tests/trace"
	"github.com/keyturn/keyturn/workflows"
)

// victim is one rotation with everything that belongs to it, whose worker is held at each change that it makes: to files
// by a tracer, at AWS by the proxy before moto.
type victim struct {
	*stage
	row
	aws   *moto.AWS
	cable *cable
	// signs are the workers by the access key that they have at AWS.
	signs  map[string]*process
	before invariant.Before
	revive bool // the worker is started again when it has died
	report *workflows.Report

	mu sync.Mutex // held while a change is looked at
	// ordinals count the changes of one name.
	ordinals map[string]int
	moments  []string
	turned   bool // somebody has asked to turn back
	struck   bool
	was      look
	events   []invariant.Event
	using    map[string]string
	used     map[string]time.Time
	// values are the keys' own, to try them when they are dead.
	values map[string]string
}

// look is the world at one moment, as issuer, store and consumers have it: nothing of it is what keyturn says of itself.
type look struct {
	keys map[string]key.State
	// versions are the stored ones with a label, by ID, with the key in each.
	versions map[string]string
	labels   map[key.Label]string
	metadata key.Metadata
	// holds is the key that each instance was given; empty where they read the store by themselves.
	holds map[string]string
}

// beginning bounds how many victims begin at once: that takes all of the machine, and what is struck already must not starve.
var beginning = make(chan struct{}, 4)

// newVictim starts what a rotation needs. Temporal is its own if the strike is about it.
func newVictim(t *testing.T, r row) *victim {
	t.Helper()
	beginning <- struct{}{}
	defer func() { <-beginning }()
	v := &victim{
		row: r, signs: map[string]*process{}, ordinals: map[string]int{}, using: map[string]string{}, used: map[string]time.Time{}, values: map[string]string{},
	}
	if r.temporal {
		v.stage = onOwnServer(t)
	} else {
		v.stage = onSharedServer(t)
	}
	v.flags = []string{"--allow-unsigned"}
	v.cable = newCable(t, v.address)
	windows := v.windows()
	if r.aws {
		windows = append(windows, "--aws")
		v.aws = moto.Start(t)
		v.aws.User("worker", documentedPolicy(t))
		v.aws.User("demo", moto.Allow("*"))
		v.variables["sandbox"] = lines(v.aws.Variables(v.aws.AccessKey("demo")))
	}
	v.prepared(windows...)
	for range r.workers {
		v.employ()
	}
	v.begin()
	return v
}

// employ starts a worker that is held at each change.
func (v *victim) employ() {
	v.t.Helper()
	var mine moto.Key
	if v.aws != nil && len(v.signs) < 2 { // that many keys a user may have
		mine = v.aws.AccessKey("worker")
		v.variables["worker"] = lines(v.aws.Variables(mine))
	}
	traced, err := trace.New(filepath.Dir(v.place.Audit), filepath.Join(programs, "worker"), append([]string{"--config", v.place.Worker,
		"--address=" + v.cable.address, "--health-address", anyPort, "--build-id", "test", "--log-format", "json"}, v.flags...)...)
	require.NoError(v.t, err)
	traced.Cmd.Env = append(append(traced.Cmd.Env, v.environment()...), v.variables["worker"]...)
	w := follow(v.t, "worker", traced.Cmd)
	v.mu.Lock()
	v.worker = w
	v.signs[mine.ID] = w
	v.mu.Unlock()
	go func() { _ = traced.Follow(func(s trace.Stop) { v.file(w, s) }) }()
	v.polls(w)
}

// begin starts the rotation.
func (v *victim) begin() {
	v.t.Helper()
	var err error
	v.was, err = v.look()
	require.NoError(v.t, err)
	first := v.was.versions[v.was.labels[key.Current]]
	require.Contains(v.t, v.was.keys, first)
	v.before = invariant.Before{
		Keys:    []invariant.Key{{ID: first, State: key.Active, Standing: invariant.Ours}},
		Slots:   2,
		Current: first,
		Version: v.was.labels[key.Current],
		Instances: []invariant.Instance{
			{Name: "checkout-canary", Wave: 0, Holds: first}, {Name: "checkout-a", Wave: 1, Holds: first}, {Name: "checkout-b", Wave: 1, Holds: first},
		},
	}
	for n := range v.before.Instances {
		v.before.Instances[n].Follows = v.aws != nil && v.before.Instances[n].Wave > 0 // these read AWSCURRENT
	}
	for _, i := range v.before.Instances {
		v.using[i.Name] = i.Holds
	}
	if v.aws != nil {
		v.aws.Around(v.call)
	}
	out, code := v.starter("rotate", credential, "-f", v.place.Inventory)
	require.Zero(v.t, code, out)
}

// file is called with each change of a file, before and after it.
func (v *victim) file(w *process, s trace.Stop) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path, err := filepath.Rel(filepath.Dir(v.place.Audit), s.Path)
	if err != nil || s.Error {
		return
	}
	if folder, name := filepath.Split(path); strings.HasSuffix(folder, "/versions/") {
		path = folder + "*" + filepath.Ext(name)
	}
	switch s.Call {
	case trace.Append:
		if path = recorded(s.Text); path == "" {
			return
		}
	case trace.Remove:
		path += " removed"
	case trace.Make, trace.Replace:
	}
	when := moto.Before
	switch {
	case s.Call == trace.Make && s.Done:
		return
	case s.Done:
		when = moto.After
	case s.Call == trace.Replace:
		when = moto.Amid
	}
	v.at(w, path, when)
}

// recorded names what is written to the audit record: empty for what may be written more than once.
func recorded(text string) string {
	var types []string
	for line := range strings.Lines(text) {
		var e struct{ Type audit.Type }
		if json.Unmarshal([]byte(line), &e) != nil || e.Type == audit.EvidenceMissing || e.Type == audit.ValueRead {
			return ""
		}
		types = append(types, string(e.Type))
	}
	return "record of " + strings.Join(types, " and ")
}

// call is called with each call of AWS, before it has an effect, when it has, and when it is answered.
func (v *victim) call(action, keyID string, when moto.When) (goOn bool) {
	_, does, _ := strings.Cut(action, ":")
	if slices.ContainsFunc([]string{"List", "Get", "Describe"}, func(looks string) bool { return strings.HasPrefix(does, looks) }) {
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	w, ours := v.signs[keyID]
	return !ours || v.at(w, action, when)
}

// at is called where a worker is about to change something, or has changed it. Whatever else changes something waits.
func (v *victim) at(w *process, what string, when moto.When) (goOn bool) {
	if when == moto.Before {
		v.ordinals[what]++
	} else {
		v.note()
	}
	moment := fmt.Sprintf("%s %s %d", when, what, v.ordinals[what])
	if v.turn == "" || v.turned {
		v.moments = append(v.moments, moment)
	}
	if v.struck || moment != v.moment {
		return true
	}
	v.struck = true
	return v.do(v, w)
}

// play sees the rotation to its end, does for it what people do, and judges it.
func (v *victim) play() {
	v.t.Helper()
	begun, asked := time.Now(), map[workflows.Phase]bool{}
	for tick := time.Tick(time.Second); v.report == nil; <-tick {
		require.Less(v.t, time.Since(begun), within, "the rotation ends")
		v.attend(asked)
		if v.t.Failed() {
			return
		}
	}
	v.judge()
}

// attend starts a dead worker again, approves, and turns back.
func (v *victim) attend(asked map[workflows.Phase]bool) {
	v.t.Helper()
	v.mu.Lock()
	worker, dead := v.worker, v.struck && v.revive
	v.mu.Unlock()
	if dead {
		<-worker.done
		v.revive = false
		v.employ()
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), 10*time.Second)
	defer cancel()
	var status workflows.Status
	answer, err := v.client().QueryWorkflow(ctx, workflows.WorkflowID(credential), "", workflows.StatusName)
	if err != nil || answer.Get(&status) != nil {
		return
	}
	switch phase := status.Phase; {
	case status.Report != nil:
		v.report = status.Report
	case asked[phase]:
	case phase == v.turn:
		v.mu.Lock()
		v.turned = true
		v.mu.Unlock()
		_, code := v.starter("rollback", credential, "--reason", "errors at checkout")
		asked[phase] = code == 0
	case phase == workflows.PhaseRevokeGate:
		_, code := v.starter("approve", credential, "--gate", "revoke", "--as", "ann")
		asked[phase] = code == 0
	}
}

// note writes down the difference to the last look, in the order in which such changes depend on each other.
func (v *victim) note() {
	is, err := v.look()
	if err != nil {
		return // amid a change; it is seen when that is done
	}
	was := v.was
	v.was = is
	v.count()
	add := func(e invariant.Event) { e.At = time.Now(); v.events = append(v.events, e) }
	for _, id := range slices.Sorted(maps.Keys(is.keys)) {
		switch state, lived := was.keys[id]; {
		case !lived:
			add(invariant.Event{Kind: invariant.Issued, Key: id})
		case state != is.keys[id]:
			add(invariant.Event{Kind: map[key.State]invariant.Kind{key.Active: invariant.Enabled, key.Disabled: invariant.Disabled}[is.keys[id]], Key: id})
		}
	}
	for _, version := range slices.Sorted(maps.Keys(is.versions)) {
		if was.versions[version] == "" {
			add(invariant.Event{Kind: invariant.Staged, Version: version, Key: is.versions[version]})
		}
	}
	if from, to := was.labels[key.Current], is.labels[key.Current]; from != to {
		add(invariant.Event{Kind: invariant.Promoted, Version: to, From: from, Key: is.versions[to]})
	}
	for _, instance := range slices.Sorted(maps.Keys(is.holds)) {
		if was.holds[instance] != is.holds[instance] {
			add(invariant.Event{Kind: invariant.Delivered, Instance: instance, Key: is.holds[instance]})
		}
	}
	for id := range was.keys {
		if _, lives := is.keys[id]; !lives {
			add(invariant.Event{Kind: invariant.Destroyed, Key: id})
		}
	}
	for version := range was.versions {
		if is.versions[version] == "" {
			add(invariant.Event{Kind: invariant.Pruned, Version: version})
		}
	}
}

// count asks the services what they use, and the issuer what it saw.
func (v *victim) count() {
	resp, err := http.Get(v.place.Snapshot)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var counted struct {
		Consumers []struct {
			Name    string
			KeyID   string `json:"keyID"`
			Refused int
		}
		Ledger []struct {
			KeyID, Caller string
			Last          time.Time
		}
	}
	if json.NewDecoder(resp.Body).Decode(&counted) != nil {
		return
	}
	for _, c := range counted.Consumers {
		if c.KeyID != "" && v.using[c.Name] != c.KeyID {
			v.using[c.Name] = c.KeyID
			v.events = append(v.events, invariant.Event{At: time.Now(), Kind: invariant.Using, Instance: c.Name, Key: c.KeyID})
		}
		if c.Refused > 0 {
			v.events = append(v.events, invariant.Event{At: time.Now(), Kind: invariant.Refused, Instance: c.Name, Key: c.KeyID})
		}
	}
	for _, l := range counted.Ledger {
		if l.Caller != "keyturn" && l.KeyID != "" {
			v.use(l.KeyID, l.Last)
		}
	}
	if v.aws != nil {
		for _, c := range v.aws.Calls() {
			if c.Action == "sts:GetCallerIdentity" && c.Status == http.StatusOK && v.keyed(c.Key) {
				v.use(c.Key, c.At)
			}
		}
	}
}

// keyed tells whether a key is or was one of the credential's.
func (v *victim) keyed(id string) bool {
	return id == v.before.Current || slices.ContainsFunc(v.events, func(e invariant.Event) bool { return e.Kind == invariant.Issued && e.Key == id })
}

func (v *victim) use(id string, at time.Time) {
	if at.After(v.used[id]) {
		v.used[id] = at
		v.events = append(v.events, invariant.Event{At: at, Kind: invariant.Used, Key: id})
	}
}

// look reads issuer, store and consumers.
func (v *victim) look() (look, error) {
	if v.aws != nil {
		return v.lookAtAWS()
	}
	return v.lookAtFiles()
}

// judge sees that the rotation ended as if nothing had happened.
func (v *victim) judge() {
	t := v.t
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	want := workflows.Completed
	if v.turn != "" {
		want = workflows.RolledBack
	}
	assert.Equal(t, want, v.report.Outcome, v.report.Message)
	v.note()
	trail, err := audit.Read(v.place.Audit)
	require.NoError(t, err)
	end := v.was
	seen := invariant.Seen{
		Events: v.events, Before: v.before, Report: v.report, Trail: trail,
		End: invariant.End{Keys: end.keys, Versions: []invariant.Version{}, Metadata: &end.metadata, Holds: v.using, DeadRefused: map[string]bool{}},
		Policy: invariant.Policy{
			Quiet: 3 * time.Second, Lag: time.Second, Overlap: 4 * time.Second, WaveSoak: time.Second, DisableSoak: 4 * time.Second,
			CanDisable: true, Approvals: 1, Slack: time.Second,
		},
	}
	for id, keyID := range end.versions {
		version := invariant.Version{ID: id, Key: keyID}
		for label, on := range end.labels {
			if on == id {
				version.Labels = append(version.Labels, label)
			}
		}
		seen.End.Versions = append(seen.End.Versions, version)
	}
	for _, e := range v.events {
		if value, known := v.values[e.Key]; known && e.Kind == invariant.Destroyed {
			seen.End.DeadRefused[e.Key] = v.refuses(e.Key, value)
		}
	}
	for _, violation := range invariant.Check(seen) {
		assert.Fail(t, violation.String())
	}
	v.nobodyRefused()
	if t.Failed() {
		for _, e := range v.events {
			if e.Kind != invariant.Used {
				t.Logf("%+v", e)
			}
		}
	}
}

// refuses tells whether the issuer refuses a key.
func (v *victim) refuses(id, value string) bool {
	if v.aws != nil {
		err := (&awsStage{stage: v.stage, aws: v.aws}).use(moto.Key{ID: id, Secret: value})
		return err != nil && strings.Contains(err.Error(), "InvalidClientTokenId")
	}
	request, err := http.NewRequest(http.MethodGet, v.place.Gateway, nil)
	require.NoError(v.t, err)
	request.Header.Set("Authorization", "Bearer "+value)
	resp, err := http.DefaultClient.Do(request)
	require.NoError(v.t, err)
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusUnauthorized
}

// cable is a connection to Temporal that can be cut.
type cable struct {
	address, to string

	mu     sync.Mutex
	broken time.Time // until then
	ends   map[net.Conn]bool
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cable{address: l.Addr().String(), to: to, ends: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = l.Close(); c.cut(0) })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go c.carry(near)
		}
	}()
	return c
}

// carry connects somebody, unless the cable is cut.
func (c *cable) carry(near net.Conn) {
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		_ = near.Close()
		return
	}
	c.mu.Lock()
	if time.Now().Before(c.broken) {
		c.mu.Unlock()
		_, _ = near.Close(), far.Close()
		return
	}
	c.ends[near], c.ends[far] = true, true
	c.mu.Unlock()
	closeBoth := func() { _, _ = near.Close(), far.Close() }
	go func() { defer closeBoth(); _, _ = io.Copy(far, near) }()
	_, _ = io.Copy(near, far)
	closeBoth()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ends, near)
	delete(c.ends, far)
}

// cut breaks all connections, and refuses new ones for a while.
func (c *cable) cut(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = time.Now().Add(d)
	for end := range c.ends {
		_ = end.Close()
	}
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
