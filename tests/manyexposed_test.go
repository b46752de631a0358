package tests

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"

	"github.com/keyturn/keyturn/consumer"
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
