package tests

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// The example runs as it stands, from the source: what it prints leads through a whole first rotation, and no request fails.
func TestTheExampleRunsAsItStands(t *testing.T) {
	t.Parallel()
	s := onSharedServer(t)
	folder, gateway, consumer := filepath.Join(s.folder, "example"), freeAddress(t), freeAddress(t)
	build := filepath.Join(s.folder, "run")
	s.fromSource("go", "build", "-o", build, "./examples/run")
	cmd := exec.Command(build, "-folder", folder, "-gateway", gateway, "-consumer", consumer)
	cmd.Dir = ".."
	example := follow(t, "example", cmd)

	var paste []string
	for line := range example.lines {
		paste = append(paste, line)
		if strings.HasSuffix(line, "--watch") {
			break
		}
	}
	require.NotEmpty(t, paste, "it says what to do next")
	before := s.requests(consumer)
	for _, line := range paste {
		command, background := strings.CutSuffix(line, " > worker.log 2>&1 &")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "cd "):
			assert.Equal(t, "cd "+folder, line)
		case background:
			worker := exec.Command("sh", "-c", "exec "+command+" --health-address "+anyPort)
			worker.Dir, worker.Env = folder, s.environment()
			s.worker = follow(t, "worker", worker)
			s.polls(s.worker)
		default:
			if strings.Contains(line, " approve ") {
				s.await(workflows.PhaseRevokeGate)
				command = strings.Replace(command, " --sign signing-key", " --sign signing-key --yes", 1) // here nobody is at a terminal
			}
			pasted := exec.Command("sh", "-c", command)
			pasted.Dir, pasted.Env = folder, s.environment()
			out, err := pasted.CombinedOutput()
			require.NoError(t, err, "%s: %s", line, out)
		}
	}
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, "from-before-keyturn", report.Retiring.KeyID)
	eventually(t, func() bool { return s.requests(consumer).Total > before.Total+10 }, patience, 100*time.Millisecond, "the consumer goes on")
	assert.Equal(t, before.Errors, s.requests(consumer).Errors, "no request failed")
}

// fromSource runs a command in the folder of the source, as a person does.
func (s *stage) fromSource(name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	require.NoError(s.t, err, string(out))
}

// counted is what the example's consumer tells of its requests.
type counted struct{ Errors, Total int }

func (s *stage) requests(consumer string) (n counted) {
	s.t.Helper()
	resp, err := http.Get("http://" + consumer + "/stats")
	require.NoError(s.t, err)
	defer resp.Body.Close()
	require.NoError(s.t, json.NewDecoder(resp.Body).Decode(&n))
	return n
}
