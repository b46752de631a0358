package tests

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/consumer"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	fileprovider "github.com/keyturn/keyturn/providers/file"
	"github.com/keyturn/keyturn/providers/gateway"
	"github.com/keyturn/keyturn/tests/invariant"
	"github.com/keyturn/keyturn/tests/trace"
	"github.com/keyturn/keyturn/workflows"
)

// manyExposed is one incident over many credentials, each with a consumer that uses its key, and everything that belongs to it. Its worker
// is held at each change that it makes to issuer, store, consumers or record.
type manyExposed struct {
	*stage
	names []string
	users map[string]*consumer.File
	// strikes tells what strikes at a moment, which has the number of the change among all; nil for nothing.
	strikes func(moment string, change int) (dies, temporal bool)

	mu      sync.Mutex // held while a change is looked at
	changes int
	// ordinals count the changes of one name.
	ordinals map[string]int
	struck   []string
	owners   map[string]string // whose key it is, of all that ever were
	keys     map[string]key.State
	values   map[string]string
	stores   map[string]look
	before   map[string]invariant.Before
	events   map[string][]invariant.Event
	sent     int
	refused  []string
}

// openMany makes the world as it is before: each credential has one key, which is CURRENT in its store and which its consumer uses.
func openMany(t *testing.T, many int) *manyExposed {
	t.Helper()
	s := onOwnServer(t)
	ann := newPerson(t, s.folder, "ann")
	signers := filepath.Join(s.folder, "signers")
	trust(t, signers, ann)
	m := &manyExposed{
		stage: openStage(s, "trust: {incidents: '"+signers+"'}\n"), users: map[string]*consumer.File{}, ordinals: map[string]int{}, owners: map[string]string{},
		keys: map[string]key.State{}, values: map[string]string{}, stores: map[string]look{}, before: map[string]invariant.Before{}, events: map[string][]invariant.Event{},
	}
	attests := httptest.NewServer(http.HandlerFunc(m.attest))
	t.Cleanup(attests.Close)
	s.rewrite(s.place.Worker, `hosts: ["`, `hosts: ["`+strings.TrimPrefix(attests.URL, "http://")+`", "`)
	s.rewrite(s.place.Worker, "quota: 50/s", "quota: 200/s")
	for n := range many {
		m.plant(fmt.Sprintf("key%03d", n))
	}
	text := declared("many", m.names, func(name string) string {
		return fmt.Sprintf(`    adopt: [old-%s]
    consumers:
      - {name: shop, target: {type: file, path: %q}, check: {type: http, url: %q}, attestation: {type: http, url: %[3]q, pointer: /key}}
`, name, m.keyOf(name), attests.URL+"/"+name)
	})
	m.apply(0, "-f", m.file("many.yaml", strings.ReplaceAll(text, "    noConsumers: true\n", "")))
	eventually(t, func() bool { return len(m.inventory(0)) == many }, patience, 200*time.Millisecond, "the index has all of them")
	m.note("gateway/keys.json")
	for _, name := range m.names {
		m.note("store/" + name + "/state.json")
		m.note("keys/" + name + "/key")
		was := m.stores[name]
		old := was.versions[was.labels[key.Current]]
		require.Equal(t, "old-"+name, old)
		m.before[name] = invariant.Before{
			Keys: []invariant.Key{{ID: old, State: key.Active, Standing: invariant.Adopted}}, Slots: 2, Current: old, Version: was.labels[key.Current],
			Instances: []invariant.Instance{{Name: "shop", Holds: old}},
		}
	}
	clear(m.events)
	return m
}

func (m *manyExposed) demo() string { return filepath.Dir(m.place.Audit) }

// keyOf is the file from which a credential's consumer has its key.
func (m *manyExposed) keyOf(name string) string { return filepath.Join(m.demo(), "keys", name, "key") }

// plant makes a credential's key, which the gateway accepts, the store has and the consumer uses.
func (m *manyExposed) plant(name string) {
	t := m.t
	t.Helper()
	value := rand.Text() + rand.Text()
	m.names = append(m.names, name)
	m.values["old-"+name] = value
	existing := gateway.ExistingKey{Principal: name, KeyID: "old-" + name, CreatedAt: time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC)}
	require.NoError(t, gateway.AddKey(t.Context(), m.keyFile(), existing, secret.New([]byte(value))))
	store, err := fileprovider.Descriptor().Store.Open(providers.Environment{}, &fileprovider.Account{Root: filepath.Join(m.demo(), "store")}, &fileprovider.StoreConfig{Path: name})
	require.NoError(t, err)
	version, err := store.Stage(t.Context(), "by hand", secret.Single(secret.New([]byte(value))))
	require.NoError(t, err)
	require.NoError(t, store.Promote(t.Context(), "", version))
	require.NoError(t, os.MkdirAll(filepath.Dir(m.keyOf(name)), 0o700))
	require.NoError(t, os.WriteFile(m.keyOf(name), []byte(value), 0o600))
	user, err := consumer.Open(m.keyOf(name), consumer.Options{Interval: 100 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { _ = user.Close() })
	m.users[name] = user
}

// attest states which key a consumer uses. That it uses it is in the ledger before anybody hears of it.
func (m *manyExposed) attest(w http.ResponseWriter, r *http.Request) {
	name := strings.Trim(r.URL.Path, "/")
	user, known := m.users[name]
	if !known {
		http.NotFound(w, r)
		return
	}
	user.Handler().ServeHTTP(w, r) // the answer leaves when this function ends
	m.mu.Lock()
	defer m.mu.Unlock()
	m.using(name)
}

func (m *manyExposed) using(name string) {
	id := m.idOf(m.users[name].Key())
	holds := "old-" + name
	for _, e := range m.events[name] {
		if e.Kind == invariant.Using {
			holds = e.Key
		}
	}
	if id != holds {
		m.add(name, invariant.Event{Kind: invariant.Using, Instance: "shop", Key: id})
	}
}

// idOf is the ID of a key by its value.
func (m *manyExposed) idOf(value string) string {
	if id := keyIn(value); id != byHand {
		return id
	}
	for id, known := range m.values {
		if known == value {
			return id
		}
	}
	return ""
}

func (m *manyExposed) add(name string, e invariant.Event) {
	e.At = time.Now()
	m.events[name] = append(m.events[name], e)
}

// employ starts a worker that is held at each change.
func (m *manyExposed) employ() {
	m.t.Helper()
	traced, err := trace.New(m.demo(), filepath.Join(programs, "worker"), append([]string{"--config", m.place.Worker,
		m.connection(), "--health-address", anyPort, "--build-id", "test", "--log-format", "json"}, m.flags...)...)
	require.NoError(m.t, err)
	traced.Cmd.Env = append(traced.Cmd.Env, m.environment()...)
	w := follow(m.t, "worker", traced.Cmd)
	m.worker = w
	go func() { _ = traced.Follow(func(s trace.Stop) { m.at(w, s) }) }()
}

// at is called with each change, before and after it; all other changes wait.
func (m *manyExposed) at(w *process, s trace.Stop) {
	path, err := filepath.Rel(m.demo(), s.Path)
	if err != nil || s.Error {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	what := path
	if parts := strings.Split(path, "/"); len(parts) > 2 { // a credential's own
		parts[1] = "*"
		if parts[2] == "versions" {
			parts[3] = "*" + filepath.Ext(path)
		}
		what = strings.Join(parts, "/")
	}
	when := moto.Before
	switch {
	case s.Call == trace.Append:
		if what = recorded(s.Text); what == "" {
			return
		}
	case s.Call == trace.Make && s.Done:
		return
	case s.Call == trace.Remove:
		what += " removed"
	case s.Call == trace.Replace:
		when = moto.Amid
	}
	if s.Done {
		when = moto.After
		m.note(path)
	}
	counted := what
	if when == moto.Amid { // what is made on the way is not always given its name
		counted = "amid " + what
	}
	if when != moto.After {
		m.ordinals[counted]++
	}
	m.changes++
	moment := fmt.Sprintf("%s %s %d", when, what, m.ordinals[counted])
	dies, temporal := m.strikes(moment, m.changes)
	if dies {
		m.struck = append(m.struck, "worker dies "+moment)
		_ = w.cmd.Process.Kill()
	}
	if temporal {
		m.struck = append(m.struck, "Temporal dies "+moment)
		_ = m.server.cmd.Process.Kill()
		<-m.server.done
		if err := m.serve(); err != nil { // the tracer's goroutine is not the test's
			m.t.Error(err)
		}
	}
}

// note writes down what a change of a file was, of which nothing is what keyturn says of itself.
func (m *manyExposed) note(path string) {
	switch parts := strings.Split(path, "/"); {
	case path == "gateway/keys.json":
		m.noteKeys()
	case parts[0] == "store" && parts[len(parts)-1] == "state.json":
		m.noteStore(parts[1])
	case parts[0] == "keys" && m.users[parts[1]] != nil:
		if text, err := os.ReadFile(filepath.Join(m.demo(), path)); err == nil {
			m.add(parts[1], invariant.Event{Kind: invariant.Delivered, Instance: "shop", Key: m.idOf(strings.TrimSpace(string(text)))})
		}
	}
}

func (m *manyExposed) noteKeys() {
	var issuer struct {
		Keys []struct {
			ID, Principal string
			State         key.State
		}
	}
	if err := readJSON(m.keyFile(), &issuer); err != nil {
		m.t.Error(err)
		return
	}
	is := map[string]key.State{}
	for _, k := range issuer.Keys {
		is[k.ID] = k.State
		m.owners[k.ID] = k.Principal
		switch state, lived := m.keys[k.ID]; {
		case !lived:
			m.add(k.Principal, invariant.Event{Kind: invariant.Issued, Key: k.ID})
		case state != k.State:
			m.add(k.Principal, invariant.Event{Kind: map[key.State]invariant.Kind{key.Active: invariant.Enabled, key.Disabled: invariant.Disabled}[k.State], Key: k.ID})
		}
	}
	for id := range m.keys {
		if _, lives := is[id]; !lives {
			m.add(m.owners[id], invariant.Event{Kind: invariant.Destroyed, Key: id})
		}
	}
	m.keys = is
}

func (m *manyExposed) noteStore(name string) {
	var store struct {
		Versions []struct{ ID string }
		Labels   map[key.Label]string
		Metadata key.Metadata
	}
	folder := filepath.Join(m.demo(), "store", name)
	if err := readJSON(filepath.Join(folder, "state.json"), &store); err != nil {
		m.t.Error(err)
		return
	}
	was, is := m.stores[name], look{versions: map[string]string{}, labels: store.Labels, metadata: store.Metadata}
	for _, v := range store.Versions {
		if is.versions[v.ID] = was.versions[v.ID]; is.versions[v.ID] != "" {
			continue
		}
		var bundle map[string]string
		if err := readJSON(filepath.Join(folder, "versions", v.ID+".json"), &bundle); err != nil {
			m.t.Error(err)
			return
		}
		for _, value := range bundle {
			id := m.idOf(value)
			is.versions[v.ID], m.values[id] = id, value
		}
		m.add(name, invariant.Event{Kind: invariant.Staged, Version: v.ID, Key: is.versions[v.ID]})
	}
	if from, to := was.labels[key.Current], is.labels[key.Current]; from != to {
		m.add(name, invariant.Event{Kind: invariant.Promoted, Version: to, From: from, Key: is.versions[to]})
	}
	for version := range was.versions {
		if is.versions[version] == "" {
			m.add(name, invariant.Event{Kind: invariant.Pruned, Version: version})
		}
	}
	m.stores[name] = is
}

// accepts tells whether the gateway accepts a key.
func (m *manyExposed) accepts(value string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.place.Gateway, nil)
	if err != nil {
		return false, err
	}
	request.Header.Set("Authorization", "Bearer "+value)
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	return resp.StatusCode != http.StatusUnauthorized, resp.Body.Close()
}

// use has each consumer use its key, one after the other, until the returned function is called. One that is refused and has another key by
// then was about to change it.
func (m *manyExposed) use() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			name := m.names[n%len(m.names)]
			value := m.users[name].Key()
			good, err := m.accepts(value)
			m.mu.Lock()
			if m.sent++; err != nil || !good && m.users[name].Key() == value {
				m.refused = append(m.refused, fmt.Sprintf("%s with key %s (%v)", name, m.idOf(value), err))
			}
			m.mu.Unlock()
		}
	}()
	return func() { close(end); <-ended }
}

// play declares the incident over all of them, and sees it to its end.
func (m *manyExposed) play() workflows.IncidentStatus {
	t := m.t
	t.Helper()
	stop := m.use()
	m.employ()
	args := []string{"emergency", "--where", "team=payments", "--reason", "a laptop was stolen", "--sign", filepath.Join(m.folder, "ann"), "--yes", "--name", "many", "-o", "json"}
	for _, name := range m.names {
		args = append(args, "--key", name+"=old-"+name)
	}
	out, code := m.starter(args...)
	require.Zero(t, code, out)
	eventually(t, func() bool {
		if m.worker.ended() {
			m.employ()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		described, err := m.client().DescribeWorkflowExecution(ctx, "incident/many", "")
		return err == nil && described.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING
	}, 2*patience, 100*time.Millisecond, "the incident ends")
	stop()
	out, code = m.starter("incident", "show", "many", "-o", "json")
	require.Zero(t, code, out)
	var status workflows.IncidentStatus
	require.NoError(t, json.Unmarshal([]byte(out), &status), out)
	return status
}

// judge sees that every exposed key is dead and nothing else, that each credential is on one key that works, and that ledger and record agree.
func (m *manyExposed) judge(status workflows.IncidentStatus) {
	t := m.t
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	assert.Equal(t, workflows.Contained, status.Outcome, status.Message)
	trail, err := audit.Read(m.place.Audit)
	require.NoError(t, err)
	require.Len(t, status.Credentials, len(m.names))
	second := 0
	for _, member := range status.Credentials {
		name := member.Credential
		var report workflows.Report
		require.NoError(t, m.client().GetWorkflow(t.Context(), workflows.WorkflowID(name), "").Get(t.Context(), &report))
		seen := m.seen(name, report, trail)
		for _, violation := range invariant.Check(seen) {
			assert.Fail(t, violation.String(), name)
		}
		events, happened := m.events[name], map[audit.Type]int{}
		for _, e := range seen.Trail.Events {
			happened[e.Type]++
		}
		for _, once := range []audit.Type{audit.EmergencyBegun, audit.KeyIssued, audit.KeyDestroyed, audit.ProbeRefused, audit.RotationEnded} {
			if happened[audit.RotationTerminated] > 0 { // its emergency did not answer for a minute, and another one saw it through
				assert.GreaterOrEqual(t, happened[once], 1, "%s of %s", once, name)
				continue
			}
			assert.Equal(t, 1, happened[once], "%s of %s", once, name)
		}
		var issued, destroyed []string
		for _, e := range events {
			switch e.Kind {
			case invariant.Issued:
				issued = append(issued, e.Key)
			case invariant.Destroyed:
				destroyed = append(destroyed, e.Key)
			case invariant.Disabled, invariant.Enabled, invariant.Staged, invariant.Promoted, invariant.Pruned, invariant.Delivered, invariant.Using, invariant.Refused, invariant.Used:
			}
		}
		current := report.Incoming.KeyID
		assert.Equal(t, current, member.Current.KeyID, name)
		require.Contains(t, issued, current, name)
		gone := slices.DeleteFunc(slices.Clone(issued), func(id string) bool { return id == current }) // minted by who died before it was stored
		second += len(gone)
		assert.ElementsMatch(t, append(gone, "old-"+name), destroyed, "no other key of %s", name)
		assert.Equal(t, len(gone), happened[audit.OrphanDestroyed], "keys of %s that were lost are on record", name)
		assert.Equal(t, map[key.Label]string{key.Current: m.stores[name].labels[key.Current]}, withoutPrevious(m.stores[name].labels), name)
		good, err := m.accepts(m.users[name].Key())
		assert.True(t, err == nil && good && m.idOf(m.users[name].Key()) == current, "the consumer of %s uses key %s (%v)", name, m.idOf(m.users[name].Key()), err)
		if t.Failed() {
			for _, e := range events {
				t.Logf("%s: %+v", name, e)
			}
			break
		}
	}
	assert.LessOrEqual(t, m.inOneTask(), 20, "Temporal ends a run of which one task asks for more than fits into a message")
	live := map[string]int{}
	for id := range m.keys {
		live[m.owners[id]]++
	}
	want := map[string]int{credential: 1} // nobody named it
	for _, name := range m.names {
		want[name] = 1
	}
	assert.Equal(t, want, live)
	assert.Empty(t, m.refused, "requests refused")
	assert.Greater(t, m.sent, 20, "traffic flowed")
	t.Logf("%d exposed keys, dead after %s, %s until the end; %d changes; struck: %s; %d keys were minted a second time, and the first ended",
		len(m.names), status.ContainedAt.Sub(status.Since).Round(100*time.Millisecond), status.EndedAt.Sub(status.Since).Round(100*time.Millisecond), m.changes, strings.Join(m.struck, "; "), second)
}

// inOneTask is for how much at most one workflow task of the incident asked with which its declaration goes along. What it asked for is
// the same when it is replayed.
func (m *manyExposed) inOneTask() (most int) {
	m.t.Helper()
	asked, whole := map[int64]int{}, historyOf(m.t, m.client(), "incident/many", "")
	require.NoError(m.t, patientReplayer(m.t).ReplayWorkflowHistoryWithOptions(silent, whole, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: "incident/many"},
	}))
	for _, e := range whole.Events {
		if a := e.GetStartChildWorkflowExecutionInitiatedEventAttributes(); a != nil {
			asked[a.GetWorkflowTaskCompletedEventId()]++
		}
		if a := e.GetActivityTaskScheduledEventAttributes(); a.GetActivityType().GetName() == "Follow" {
			asked[a.GetWorkflowTaskCompletedEventId()]++
		}
	}
	for _, n := range asked {
		most = max(most, n)
	}
	return most
}

// withoutPrevious are a store's labels but for what was CURRENT before.
func withoutPrevious(labels map[key.Label]string) map[key.Label]string {
	rest := maps.Clone(labels)
	delete(rest, key.Previous)
	return rest
}

// seen is all that is known of one credential.
func (m *manyExposed) seen(name string, report workflows.Report, trail audit.Trail) invariant.Seen {
	m.t.Helper()
	is := m.stores[name]
	end := invariant.End{Keys: map[string]key.State{}, Versions: []invariant.Version{}, Metadata: &is.metadata, Holds: map[string]string{}, DeadRefused: map[string]bool{}}
	for id, state := range m.keys {
		if m.owners[id] == name {
			end.Keys[id] = state
		}
	}
	for id, keyID := range is.versions {
		version := invariant.Version{ID: id, Key: keyID}
		for label, on := range is.labels {
			if on == id {
				version.Labels = append(version.Labels, label)
			}
		}
		end.Versions = append(end.Versions, version)
	}
	end.Holds["shop"] = m.idOf(m.users[name].Key())
	for _, e := range m.events[name] {
		if value, known := m.values[e.Key]; known && e.Kind == invariant.Destroyed {
			accepted, err := m.accepts(value)
			end.DeadRefused[e.Key] = err == nil && !accepted
		}
	}
	own := audit.Trail{Damaged: trail.Damaged}
	for _, e := range trail.Events {
		if e.Credential == name {
			own.Events = append(own.Events, e)
		}
	}
	return invariant.Seen{
		Events: m.events[name], Before: m.before[name], End: end, Report: &report, Trail: own,
		Policy: invariant.Policy{Emergency: true}, Untold: []invariant.Part{invariant.Times, invariant.Uses, invariant.Traffic},
	}
}
