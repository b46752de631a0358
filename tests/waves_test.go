package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/workflows"
)

// fleet is a consumer with many instances: each has its key file and its addresses at one server, and uses its key all
// the time.
type fleet struct {
	s     *stage
	url   string
	first string // the key before
	names []string

	mu    sync.Mutex
	hosts map[string]*fleetHost

	sent, refused atomic.Int64
}

type fleetHost struct {
	file, key string
	// stuck: it goes on with its key. breaks: it is not well with any but its first one.
	stuck, breaks bool
	// held keeps its statements back while it is not closed.
	held                        chan struct{}
	delivered, purged, attested int
}

// addFleet adds a consumer to the inventory, with n instances and further lines of YAML.
func (s *stage) addFleet(n int, more string) *fleet {
	s.t.Helper()
	keys := filepath.Join(s.folder, "demo", "keys")
	value, err := os.ReadFile(filepath.Join(keys, "checkout-a", credential))
	require.NoError(s.t, err)
	f := &fleet{s: s, first: string(value), hosts: map[string]*fleetHost{}}
	for i := range n {
		name := fmt.Sprintf("i%d", i)
		folder := filepath.Join(keys, "web-"+name)
		require.NoError(s.t, os.Mkdir(folder, 0o700))
		file := filepath.Join(folder, credential)
		require.NoError(s.t, os.WriteFile(file, value, 0o600))
		f.names, f.hosts[name] = append(f.names, name), &fleetHost{file: file, key: string(value)}
	}
	server := httptest.NewServer(f)
	s.t.Cleanup(server.Close)
	f.url = server.URL
	text, err := os.ReadFile(s.place.Inventory)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(s.place.Inventory, []byte(strings.TrimRight(string(text), "\n")+fmt.Sprintf(`
      - name: web
        instances: [%s]
        target: {type: file, path: %q, mode: "0600"}
        check: {type: http, url: "%[3]s/{instance}/healthz"}
        attestation: {type: http, url: "%[3]s/{instance}/keyturn", pointer: /key}
`, strings.Join(f.names, ", "), filepath.Join(keys, "web-{instance}", credential), f.url)+more), 0o600))
	s.rewrite(s.place.Worker, `hosts: [`, `hosts: ["`+server.Listener.Addr().String()+`", `)
	f.work()
	return f
}

// ServeHTTP is each instance's check, statement and purge hook.
func (f *fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	f.mu.Lock()
	h := f.hosts[name]
	if h == nil {
		f.mu.Unlock()
		http.NotFound(w, r)
		return
	}
	held := h.held
	f.mu.Unlock()
	if held != nil && what == "keyturn" {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reload(h)
	switch {
	case what == "purge" && r.Method == http.MethodPost:
		h.purged++
	case what == "keyturn":
		h.attested++
		_ = json.NewEncoder(w).Encode(map[string]string{"key": fingerprint(h.key)})
	case what == "healthz" && h.breaks && h.key != f.first:
		http.Error(w, "errors since the reload", http.StatusInternalServerError)
	}
}

func fingerprint(value string) string {
	return secret.Single(secret.New([]byte(value))).Fingerprint()
}

// reload reads the instance's file.
func (f *fleet) reload(h *fleetHost) {
	text, err := os.ReadFile(h.file)
	if err == nil && string(text) != h.key && !h.stuck {
		h.key = string(text)
		h.delivered++
	}
}

// change changes one instance.
func (f *fleet) change(name string, do func(*fleetHost)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f.hosts[name])
}

// work sends requests, of one instance after another, until the test ends.
func (f *fleet) work() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			f.mu.Lock()
			h := f.hosts[f.names[i%len(f.names)]]
			f.reload(h)
			value := h.key
			f.mu.Unlock()
			if status := ping(ctx, f.s.place.Gateway, value); status != 0 {
				f.sent.Add(1)
				if status != http.StatusOK {
					f.refused.Add(1)
				}
			}
			<-pace.C
		}
	}()
	f.s.t.Cleanup(func() { stop(); <-done })
}

// ping sends one request to the gateway; 0 for no answer.
func ping(ctx context.Context, gateway, value string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway, nil)
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+value)
	req.Header.Set("User-Agent", "fleet")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// back sees that every instance uses its first key again, and that none was refused.
func (f *fleet) back() {
	f.s.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, h := range f.hosts {
		text, err := os.ReadFile(h.file)
		require.NoError(f.s.t, err)
		assert.Equal(f.s.t, fingerprint(f.first), fingerprint(string(text)), name)
	}
	f.noneRefused()
}

func (f *fleet) noneRefused() {
	f.s.t.Helper()
	assert.Greater(f.s.t, f.sent.Load(), int64(100), "traffic flowed")
	assert.Zero(f.s.t, f.refused.Load(), "requests refused")
}

// touched are the instances that ever had another key than their first.
func (f *fleet) touched() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, h := range f.hosts {
		if h.delivered > 0 {
			names = append(names, "web/"+name)
		}
	}
	slices.Sort(names)
	return names
}

// ofWave are the instances of a wave, as the rotation shows them.
func ofWave(s workflows.Status, name string) []string {
	for _, w := range s.Waves {
		if w.Name == name {
			return slices.Sorted(slices.Values(w.Instances))
		}
	}
	return nil
}

func (s *stage) stepsOf(terms string) {
	s.t.Helper()
	s.rewrite(s.place.Inventory, "    waveTimeout: 3m\n", "    "+terms+"\n")
}

// The first step is the canary in effect. What breaks there on the new key stops there: nobody else ever gets it.
func TestACanaryThatBreaksIsTheOnlyOne(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	s.rewrite(s.place.Inventory, "        wave: canary\n", "")
	s.stepsOf("waveTimeout: 20s\n    waveSteps: [10%, 50%]")
	f := s.addFleet(20, "")
	for _, name := range f.names {
		f.change(name, func(h *fleetHost) { h.breaks = true })
	}
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	out, code := s.starter("plan", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	assert.Contains(t, out, "wave rest-10%: deliver to")
	out, code = s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	status := s.awaitThat("it has planned", func(st workflows.Status) bool { return len(st.Waves) == 3 })
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Contains(t, report.Message, "it answers 500", "seen by the wave or by the watch, whichever is first")
	for _, name := range f.touched() {
		assert.Contains(t, ofWave(status, "rest-10%"), name, "nobody else was touched")
	}
	assert.Len(t, ofWave(status, "rest-10%"), 3, "a tenth of 23, rounded up")
	trail, err := audit.Read(s.place.Audit)
	require.NoError(t, err)
	var waves []string
	for _, e := range trail.Events {
		if e.Type == audit.KeyDelivered {
			waves = append(waves, e.Detail["wave"])
		}
	}
	assert.Equal(t, []string{"rest-10%", "rollback"}, waves)
	f.back()
	s.nobodyRefused()
	s.replays()
}

// Half of the last wave of two hundred never reloads. All return, none is refused, and the history stays small.
func TestHalfOfTwoHundredInstancesFailing(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	s.stepsOf("waveTimeout: 30s\n    waveSteps: [1%, 10%]")
	f := s.addFleet(200, "")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	status := s.awaitThat("it has planned", func(st workflows.Status) bool { return len(st.Waves) == 4 })
	assert.Equal(t, []int{1, 3, 18, 181}, []int{
		len(ofWave(status, "canary")), len(ofWave(status, "rest-1%")), len(ofWave(status, "rest-10%")), len(ofWave(status, "rest")),
	})
	bad := 0
	for _, name := range ofWave(status, "rest") {
		if name, ours := strings.CutPrefix(name, "web/"); ours && bad < 100 {
			bad++
			f.change(name, func(h *fleetHost) { h.stuck = true })
		}
	}
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Contains(t, report.Message, "wave rest did not converge")
	assert.Contains(t, report.Message, "and 99 more of 181 instances")
	assert.Greater(t, len(f.touched()), 90, "the others of the wave had the key")
	f.back()
	s.nobodyRefused()
	for _, e := range s.history().Events {
		if done := e.GetActivityTaskCompletedEventAttributes(); done != nil {
			for _, p := range done.GetResult().GetPayloads() {
				assert.Less(t, len(p.Data), 128<<10, "an activity's result")
			}
		}
	}
	s.replays()
}

// A worker is killed in the middle of a wave. The next one goes on where it stopped: whose caches were purged and who had
// converged is not disturbed again, and is asked again.
func TestAWaveGoesOnWhereItWasKilled(t *testing.T) {
	t.Parallel()
	s := prepare(t, "--wave-soak", "8s") // time to hold two
	s.stepsOf("waveTimeout: 3m\n    waveParallel: 2")
	f := s.addFleet(30, "")
	s.rewrite(s.place.Inventory, f.url+"/{instance}/keyturn\", pointer: /key}", f.url+"/{instance}/keyturn\", pointer: /key, timeout: 1m}\n        purge: {type: http, url: \""+f.url+"/{instance}/purge\"}")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	s.awaitThat("the canary soaks", func(st workflows.Status) bool { return len(st.Waves) == 2 && st.Waves[0].State == "soaking" })
	release := make(chan struct{})
	for _, name := range []string{"i11", "i23"} { // two of them hold both turns
		f.change(name, func(h *fleetHost) { h.held = release })
	}
	c := s.client()
	// The server has a heartbeat of some who have converged, and the delivery stands still.
	var attested int
	standing := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		n, before := 0, attested
		for _, h := range f.hosts {
			n += h.purged
		}
		attested = n
		return n > 2 && n == before
	}
	eventually(t, standing, patience, time.Second, "the delivery stands still")
	purged := f.purged()
	eventually(t, func() bool { return doneIn(c, t) >= len(purged)-2 }, patience, 200*time.Millisecond, "the server knows who has converged")
	s.worker.end(syscall.SIGKILL)
	for name := range f.hosts {
		f.change(name, func(h *fleetHost) { h.attested = 0 })
	}
	close(release)
	s.startWorker()
	status := s.await(workflows.PhaseOverlap)
	assert.Equal(t, "passed", status.Waves[1].State)
	f.mu.Lock()
	for name, n := range purged {
		if name != "i11" && name != "i23" {
			assert.Equal(t, n, f.hosts[name].purged, "%s was not disturbed again", name)
		}
	}
	for name, h := range f.hosts {
		assert.Positive(t, h.attested, "%s was asked again", name)
		assert.Positive(t, h.purged, "%s was purged", name)
	}
	f.mu.Unlock()
	s.await(workflows.PhaseRevokeGate)
	out, code = s.starter("approve", credential, "--gate", "revoke")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	f.noneRefused()
	s.nobodyRefused()
	s.replays()
}

// purged are the instances whose caches were purged, and how often.
func (f *fleet) purged() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := map[string]int{}
	for name, h := range f.hosts {
		if h.purged > 0 {
			of[name] = h.purged
		}
	}
	return of
}

// doneIn counts the instances that the heartbeat of the delivery has as converged.
func doneIn(c client.Client, t *testing.T) (n int) {
	t.Helper()
	d, err := c.DescribeWorkflowExecution(t.Context(), workflows.WorkflowID(credential), "")
	if err != nil {
		return 0
	}
	for _, a := range d.PendingActivities {
		var kept struct{ Done []byte }
		if a.State != enums.PENDING_ACTIVITY_STATE_STARTED || a.ActivityType.Name != "DeliverWave" || len(a.HeartbeatDetails.GetPayloads()) == 0 {
			continue
		}
		require.Less(t, len(a.HeartbeatDetails.Payloads[0].Data), 1<<10)
		require.NoError(t, json.Unmarshal(a.HeartbeatDetails.Payloads[0].Data, &kept))
		for _, b := range kept.Done {
			for ; b > 0; b &= b - 1 {
				n++
			}
		}
	}
	return n
}

// One replica of three behind a balancer stays on the retiring key. Each answer is one of the three's, and keyturn asks
// until it has met all.
func TestOneReplicaBehindABalancerStaysBehind(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	s.stepsOf("waveTimeout: 30s")
	f := s.addFleet(3, "") // the replicas, each with a reader of its own of one file
	shared := f.hosts["i0"].file
	f.mu.Lock()
	for _, h := range f.hosts {
		h.file = shared
	}
	f.mu.Unlock()
	f.change("i2", func(h *fleetHost) { h.stuck = true })
	next := atomic.Int64{}
	target, err := url.Parse(f.url)
	require.NoError(t, err)
	balancer := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.URL.Path = fmt.Sprintf("/i%d%s", next.Add(1)%3, r.In.URL.Path)
	}})
	defer balancer.Close()
	text, err := os.ReadFile(s.place.Inventory)
	require.NoError(t, err)
	before, _, _ := strings.Cut(string(text), "      - name: web\n")
	require.NoError(t, os.WriteFile(s.place.Inventory, []byte(before+fmt.Sprintf(`      - name: web
        replicas: 3
        target: {type: file, path: %q, mode: "0600"}
        check: {type: http, url: "%[2]s/healthz"}
        attestation: {type: http, url: "%[2]s/keyturn"}
`, shared, balancer.URL)), 0o600))
	s.rewrite(s.place.Worker, `hosts: [`, `hosts: ["`+balancer.Listener.Addr().String()+`", `)
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	// Where the machine is slow, the last look ends without an answer.
	assert.Regexp(t, `the replicas of web do not all use key|web does not state which key it uses: .*; before, it stated \[`, report.Message)
	f.back()
	s.nobodyRefused()
	s.replays()
}

// A job that nobody declared wakes up with the retiring key while that is disabled. It is enabled again, the owner is told
// who it was, and the evidence is gathered anew.
func TestAnUndeclaredJobWakesUpInTheDisableSoak(t *testing.T) {
	t.Parallel()
	s := newStage(t, "--disable-soak", "40s")
	old, err := os.ReadFile(filepath.Join(s.folder, "demo", "keys", "checkout-a", credential))
	require.NoError(t, err)
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	s.await(workflows.PhaseRevokeGate)
	out, code = s.starter("approve", credential, "--gate", "revoke")
	require.Zero(t, code, out)
	s.await(workflows.PhaseDisableSoak)
	require.Equal(t, http.StatusUnauthorized, ping(t.Context(), s.place.Gateway, string(old)), "it is refused")
	eventually(t, func() bool { return ping(t.Context(), s.place.Gateway, string(old)) == http.StatusOK }, patience, 200*time.Millisecond,
		"it is served again, which it would not be after the soak")
	status := s.awaitThat("the evidence is gathered anew", func(st workflows.Status) bool {
		return st.Phase == workflows.PhaseEvidence || st.Phase == workflows.PhaseRevokeGate
	})
	said := ""
	for _, m := range status.Timeline {
		said += m.What + "\n"
	}
	assert.Contains(t, said, "was used by fleet")
	assert.Contains(t, said, "enabled key "+status.Retiring.KeyID+" again")
	assert.Contains(t, s.trail(), "key.enabled")
	// It is quiet from now on, and the next approval ends it.
	s.await(workflows.PhaseRevokeGate)
	out, code = s.starter("approve", credential, "--gate", "revoke")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	s.nobodyRefused()
	s.replays()
}
