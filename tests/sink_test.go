package tests

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/workflows"
)

// centralSink is a collector of audit events that answers nobody until it is up, and takes all from then on.
type centralSink struct {
	up     chan struct{}
	waited sync.Once
	waits  chan struct{} // closed once somebody waits for it
	mu     sync.Mutex
	taken  []audit.Numbered
}

func (s *centralSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var told struct{ Data audit.Numbered }
	if json.NewDecoder(r.Body).Decode(&told) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.waited.Do(func() { close(s.waits) })
	select {
	case <-s.up:
	case <-r.Context().Done(): // whoever sent it gave up
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, told.Data)
}

// numbers are those of the events that it took, by ID. One that came again must have the number that it had.
func (s *centralSink) numbers(t *testing.T) map[string]int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	numbers := map[string]int{}
	for _, e := range s.taken {
		if had, again := numbers[e.ID]; again {
			assert.Equal(t, had, e.Number, e.ID)
		}
		numbers[e.ID] = e.Number
	}
	return numbers
}

// A rotation waits for no central sink: it ends while that is down. Once it is up it gets every event, each with its number.
func TestARotationEndsWhileTheCentralAuditSinkIsDown(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	sink := &centralSink{up: make(chan struct{}), waits: make(chan struct{})}
	server := httptest.NewServer(sink)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.rewrite(s.place.Worker, "audit: {", "audit: {sink: {type: webhook, url: '"+server.URL+"'}, ")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()

	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	<-sink.waits
	s.await(workflows.PhaseRevokeGate)
	out, code = s.starter("approve", credential, "--gate", "revoke")
	require.Zero(t, code, out)
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Empty(t, report.Debt)
	s.nobodyRefused()
	require.Empty(t, sink.numbers(t), "it was down all the while")

	close(sink.up)
	trail, err := audit.Read(s.place.Audit)
	require.NoError(t, err)
	require.Greater(t, len(trail.Events), 10)
	eventually(t, func() bool { return len(sink.numbers(t)) >= len(trail.Events) }, patience, 50*time.Millisecond, "all that the file holds")
	numbers, next := sink.numbers(t), 0
	for _, e := range trail.Events {
		if assert.Equal(t, report.Rotation, e.Rotation) {
			next++
			assert.Equal(t, next, numbers[e.ID], "%s, in the order of the file", e.ID)
		}
	}
}
