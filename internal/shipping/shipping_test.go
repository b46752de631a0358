package shipping

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/webhook"
)

// shipEnv makes this test binary a process that ships the file which it names to the URL.
const shipEnv = "KEYTURN_SHIPPING_TEST"

func TestMain(m *testing.M) {
	if path, url, is := strings.Cut(os.Getenv(shipEnv), " "); is {
		New(path, collector(url), slog.New(slog.NewTextHandler(os.Stderr, nil))).Run(context.Background())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func collector(url string) providers.Collector {
	c, err := webhook.Descriptor().Collector.Open(providers.Environment{HTTP: &http.Client{Transport: &http.Transport{}}}, nil, &webhook.Config{URL: url})
	if err != nil {
		panic(err)
	}
	return c
}

// sink is a receiver of CloudEvents. answer may do otherwise than take one, by how many were posted before.
type sink struct {
	mu     sync.Mutex
	posted int
	got    []audit.Numbered
	answer func(posted int, w http.ResponseWriter) (takes bool)
	took   chan struct{} // after each that was taken
}

func newSink(t testing.TB, answer func(posted int, w http.ResponseWriter) bool) (*sink, string) {
	s := &sink{answer: answer, took: make(chan struct{}, 1000)}
	server := httptest.NewServer(s)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return s, server.URL
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e struct {
		ID, Type string
		Data     audit.Numbered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posted++
	if json.NewDecoder(r.Body).Decode(&e) != nil || e.ID != e.Data.ID || e.Type != "dev.keyturn.audit."+string(e.Data.Type) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if s.answer(s.posted-1, w) {
		s.got = append(s.got, e.Data)
		s.took <- struct{}{}
	}
}

func (s *sink) taken() []audit.Numbered {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

func takesAll(int, http.ResponseWriter) bool { return true }

func record(t testing.TB, events int) string {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f, err := audit.OpenFile(path)
	require.NoError(t, err)
	var list []audit.Event
	for n := range events {
		list = append(list, audit.Event{ID: fmt.Sprint(n), Type: audit.KeyIssued, Credential: "payments-api", Rotation: "r", Time: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)})
	}
	require.NoError(t, f.Append(t.Context(), list...))
	return path
}

func numbers(events []audit.Numbered) (list []int) {
	for _, e := range events {
		list = append(list, e.Number)
	}
	return list
}

// paused is a shipper without pauses, which notes them and ends when nothing is new after the last event that is expected.
func paused(t testing.TB, path, url string) (s *Shipper, log *bytes.Buffer, pauses *[]time.Duration) {
	log, pauses = new(bytes.Buffer), new([]time.Duration)
	s = New(path, collector(url), slog.New(slog.NewTextHandler(log, nil)))
	ctx, end := context.WithCancel(t.Context())
	t.Cleanup(end)
	s.Pause = func(_ context.Context, d time.Duration) error {
		if s.since.IsZero() {
			end()
		} else {
			*pauses = append(*pauses, d)
		}
		return ctx.Err()
	}
	s.Run(ctx)
	return s, log, pauses
}

func TestASinkThatIsDownGetsAllInOrderOnceItIsUp(t *testing.T) {
	t.Parallel()
	path := record(t, 100)
	var s *Shipper
	got, url := newSink(t, func(posted int, w http.ResponseWriter) bool {
		switch {
		case posted >= 70 && posted < 74:
			w.WriteHeader(http.StatusServiceUnavailable)
			return false
		case posted == 74:
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusTooManyRequests)
			return false
		}
		return true
	})
	s, log, pauses := paused(t, path, url)
	want := []int{}
	for n := range 100 {
		want = append(want, n+1)
	}
	assert.Equal(t, want, numbers(got.taken()))
	assert.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 2 * time.Minute}, *pauses)
	assert.Equal(t, 1, strings.Count(log.String(), "are not shipped"), "an outage is said once: %s", log)
	assert.Equal(t, 1, strings.Count(log.String(), "shipped again: none waits any more"))
	assert.Regexp(t, `bytes=[1-9]`, log.String(), "how far it is behind")
	assert.Empty(t, s.Trouble())

	paused(t, path, url)
	assert.Len(t, got.taken(), 100, "another process repeats nothing")
}

func TestTroubleIsToldWhileItLasts(t *testing.T) {
	t.Parallel()
	got, url := newSink(t, func(_ int, w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusForbidden)
		return false
	})
	s := New(record(t, 1), collector(url), slog.New(slog.DiscardHandler))
	ctx, end := context.WithCancel(t.Context())
	told := ""
	s.Pause = func(context.Context, time.Duration) error {
		told = s.Trouble()
		end()
		return nil
	}
	s.Run(ctx)
	assert.Contains(t, told, "audit events wait in the file")
	assert.Contains(t, told, "403 Forbidden")
	assert.Empty(t, got.taken())
}

// A process that is killed after an event was taken, and before that was noted, has the next one repeat it, with its number.
func TestAProcessThatIsKilledLosesNoEventAndChangesNoNumber(t *testing.T) {
	t.Parallel()
	path := record(t, 200)
	var begun *exec.Cmd
	run := func(url string) {
		begun = exec.Command(os.Args[0])
		begun.Env = append(os.Environ(), shipEnv+"="+path+" "+url)
		require.NoError(t, begun.Start())
	}
	kill := func() {
		_ = begun.Process.Kill()
		_ = begun.Wait()
	}
	got, url := newSink(t, takesAll)
	for _, after := range []int{3, 100} { // before anything was noted, and in the middle of what was
		run(url)
		for range after {
			<-got.took
		}
		kill()
		for len(got.took) > 0 {
			<-got.took
		}
	}
	paused(t, path, url)
	first := map[string]int{}
	var inOrder []int
	for _, e := range got.taken() {
		if n, repeated := first[e.ID]; repeated {
			assert.Equal(t, n, e.Number, "a repetition has the number that it had")
			continue
		}
		first[e.ID] = e.Number
		inOrder = append(inOrder, e.Number)
	}
	require.Len(t, inOrder, 200)
	for i, n := range inOrder {
		assert.Equal(t, i+1, n)
	}
	assert.LessOrEqual(t, len(got.taken()), 200+2*(keepEvery+1), "what is repeated is bounded")
}

func TestPausesGrowAndACollectorIsHeard(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tries       int
		asked, want time.Duration
	}{
		"the first":                      {1, 0, time.Second},
		"the second":                     {2, 0, 2 * time.Second},
		"after days":                     {5000, 0, longestPause},
		"asked for less":                 {5000, time.Second, longestPause},
		"asked for more":                 {1, 20 * time.Minute, 20 * time.Minute},
		"asked for longer than it might": {1, 1000 * time.Hour, mostAsked},
	} {
		assert.Equal(t, c.want, pause(c.tries, c.asked), name)
	}
}

// silent answers nobody.
type silent struct{}

func (silent) Collect(ctx context.Context, _ audit.Numbered) error {
	<-ctx.Done()
	return errors.New("nobody reads it")
}

func TestShippingEndsThoughTheSinkIsSilent(t *testing.T) {
	t.Parallel()
	path := record(t, 1)
	ctx, end := context.WithCancel(t.Context())
	log := new(bytes.Buffer)
	s := New(path, silent{}, slog.New(slog.NewTextHandler(log, nil)))
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	end()
	<-ended
	assert.Empty(t, log, "to be told to end is no outage")
}
