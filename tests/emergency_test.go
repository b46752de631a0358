package tests

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/workflows"
)

// alarmed is a trusting stage on which ann may declare incidents, too.
func alarmed(t *testing.T, windows ...string) *trustingStage {
	t.Helper()
	prepared := prepare(t, windows...)
	s := &trustingStage{stage: prepared, signers: filepath.Join(prepared.folder, "signers"), ran: filepath.Join(prepared.folder, "ran")}
	s.ann, s.mallory = newPerson(t, s.folder, "ann"), newPerson(t, s.folder, "mallory")
	s.olga = newPerson(t, s.folder, "olga")
	trust(t, s.signers, s.ann, s.olga)
	s.lock = filepath.Join(prepared.folder, "deployments-frozen")
	s.rewrite(s.place.Worker, "audit:", "freeze: [{type: file, path: '"+s.lock+"'}]\naudit:")
	s.rewrite(s.place.Worker, "audit:", "trust:\n  inventory: [{environments: [sandbox], allowedSigners: '"+s.signers+"'}]\n  incidents: '"+s.signers+"'\naudit:")
	s.startWorker()
	return s
}

// emergency runs the command to its end, and returns what it says.
func (s *trustingStage) emergency(by person, more ...string) (status workflows.IncidentStatus, out string, code int) {
	s.t.Helper()
	args := append([]string{"emergency", credential, "-f", s.place.Inventory, "--reason", "key in a public repository", "--sign", by.file, "--yes", "--wait", "--timeout", patience.String(), "-o", "json"}, more...)
	out, code = s.starter(args...)
	if at := strings.Index(out, "{"); at >= 0 {
		require.NoError(s.t, json.NewDecoder(strings.NewReader(out[at:])).Decode(&status), out)
	}
	return status, out, code
}

// An exposed key is dead in moments, though nobody approved anything; whoever may not declare that moves nothing.
func TestEmergencyByTheCommandLine(t *testing.T) {
	t.Parallel()
	s := alarmed(t)
	_, out, code := s.emergency(s.mallory)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "the signer is not trusted")
	keys := s.gatewayKeys()
	require.Len(t, keys, 1, "nothing was touched")
	_, out, code = s.emergency(s.ann, "--dry-run")
	require.Zero(t, code, out)
	assert.Contains(t, out, `"because": "named"`)
	assert.Contains(t, out, `"perSecond": 50`, "what paces it")
	assert.Contains(t, out, `"atLeast": "1s"`)
	for id := range keys {
		assert.Contains(t, out, id)
	}
	assert.Equal(t, keys, s.gatewayKeys(), "nor by a dry run")

	status, out, code := s.emergency(s.ann)
	require.Zero(t, code, out)
	assert.Equal(t, workflows.Contained, status.Outcome, status.Message)
	assert.Equal(t, "ann", status.DeclaredBy)
	assert.Contains(t, fmt.Sprint(status.Timeline), "deployments: frozen by file (1 of 1)")
	assert.Contains(t, fmt.Sprint(status.Timeline), "deployments: unfrozen by file (1 of 1)")
	assert.NoFileExists(t, s.lock)
	require.Len(t, status.Credentials, 1)
	m := status.Credentials[0]
	require.Len(t, m.Contained, 1)
	assert.Contains(t, keys, m.Contained[0].KeyID, "it is the key that was in use")
	assert.Equal(t, map[string]string{m.Current.KeyID: "active"}, s.gatewayKeys())
	s.harmless()
	s.nobodyRefused()

	var list []workflows.IncidentStatus
	eventually(t, func() bool { // the index is a little late
		out, code = s.starter("incident", "list", "-o", "json")
		require.Zero(t, code, out)
		list = nil
		require.NoError(t, json.Unmarshal([]byte(out), &list), out)
		return len(list) > 0 && list[0].Outcome != ""
	}, patience, 200*time.Millisecond)
	require.Len(t, list, 1)
	assert.Equal(t, status, list[0])
	out, code = s.starter("incident", "show", strings.TrimPrefix(list[0].Incident, "incident/"))
	require.Zero(t, code, out)
	assert.Contains(t, out, "Every exposed key is dead, after")
	assert.Contains(t, out, "declared by ann: key in a public repository")
	require.NotNil(t, m.Misuse)
	assert.Equal(t, []string{"the gateway's usage file"}, m.Misuse.Tellers)
	require.Len(t, m.Misuse.Uses, 1, "the gateway knows the last use of a dead key")
	assert.Contains(t, out, "Who used the exposed keys, unusual uses first:")
	assert.Contains(t, out, "Not known: A gateway does not know a destroyed key again")
	review := func(by person) (string, int) {
		return s.starter("review", list[0].Incident, "--sign", by.file, "--comment", "right key, right time", "--yes")
	}
	assert.Contains(t, out, "Not reviewed yet: keyturn review "+list[0].Incident)
	for _, by := range []person{s.ann, s.mallory} {
		out, code = review(by)
		assert.Equal(t, 3, code, out)
	}
	out, code = review(s.olga)
	require.Zero(t, code, out)
	out, code = s.starter("incident", "show", list[0].Incident)
	require.Zero(t, code, out)
	assert.Contains(t, out, "Reviewed by olga")
	assert.Contains(t, out, ": right key, right time")
	out, code = s.starter("incident", "show", "never-was")
	assert.Equal(t, 4, code, out)
}

// What was made with an exposed credential is exposed, too: it follows that one, and nothing else is touched.
func TestEmergencyOfAChain(t *testing.T) {
	t.Parallel()
	s := openStage(onSharedServer(t), "")
	ann := newPerson(t, s.folder, "ann")
	signers := filepath.Join(s.folder, "signers")
	trust(t, signers, ann)
	s.rewrite(s.place.Worker, "audit:", "trust: {incidents: '"+signers+"'}\naudit:")
	names := []string{"leaf", "other", "root", "scratch"}
	for _, name := range names {
		s.oldKey(name, "old-"+name, time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC))
	}
	chain := declared("chain", names, func(name string) string {
		return "    adopt: [old-" + name + "]\n" + map[string]string{"leaf": "    dependsOn: [root]\n"}[name]
	})
	scratch := strings.LastIndex(chain, "{team: payments}")
	s.apply(0, "-f", s.file("chain.yaml", chain[:scratch]+strings.Replace(chain[scratch:], "{team: payments}", `{drill: "true"}`, 1)))
	s.startWorker()
	var status workflows.IncidentStatus
	eventually(t, func() bool { // the index may not have all of them yet
		out, code := s.starter("emergency", "root", "--reason", "a laptop was stolen", "--dry-run", "-o", "json")
		return code == 0 && strings.Contains(out, "made with root")
	}, patience, 200*time.Millisecond)
	out, code := s.starter("emergency", "root", "--reason", "a laptop was stolen", "--sign", ann.file, "--yes", "--wait", "--timeout", patience.String(), "-o", "json")
	require.Zero(t, code, out)
	require.NoError(t, json.Unmarshal([]byte(out), &status), out)
	dead := map[string]time.Time{}
	for _, m := range status.Credentials {
		require.Len(t, m.Contained, 1, m.Message)
		assert.Equal(t, "old-"+m.Credential, m.Contained[0].KeyID)
		dead[m.Credential] = m.Contained[0].At
	}
	require.Len(t, dead, 2)
	assert.True(t, dead["leaf"].After(dead["root"]), "%v", dead)
	text, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.Contains(t, string(text), "old-other")
	_, err = s.client().DescribeWorkflowExecution(t.Context(), workflows.WorkflowID("other"), "")
	assert.Error(t, err)

	out, code = s.starter("emergency", "other", "--drill", "--sign", ann.file, "--yes", "--wait")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "other is not labelled drill=true; nothing was touched")
	eventually(t, func() bool { // the index may not have all of them yet
		out, code = s.starter("emergency", "--drill", "--sign", ann.file, "--yes", "--wait", "--timeout", patience.String())
		return code != 4
	}, patience, 200*time.Millisecond)
	require.Zero(t, code, out)
	assert.Contains(t, out, "DRILL: Every exposed key is dead, after")
	text, err = os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.NotContains(t, string(text), "old-scratch")
	assert.Contains(t, string(text), "old-other")
}

// An incident begins by the temporal CLI as the page says. Nobody has signed for it: there is another key, and none is destroyed, until
// somebody signs who may. Input that is no incident's touches nothing.
func TestEmergencyThatNobodySigned(t *testing.T) {
	t.Parallel()
	need(t, "temporal", "pip install -r tests/requirements.txt")
	text, err := os.ReadFile("../docs/emergency.md")
	require.NoError(t, err)
	documented := func(begins string) string {
		_, rest, found := strings.Cut(string(text), "\n"+begins)
		require.True(t, found, begins)
		rest, _, _ = strings.Cut(rest, "\n")
		return begins + rest
	}
	start := documented("temporal workflow start")
	s := alarmed(t, "--overlap", "1h")
	s.apply(0, "-f", s.place.Inventory, "--sign", s.ann.file)
	keys := s.gatewayKeys()
	run := func(command string) string {
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = s.environment()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	run(strings.NewReplacer("incident/leak", "incident/nonsense", `["payments-api"]`, `{"payments-api":7}`).Replace(start))
	eventually(t, func() bool {
		out, code := s.starter("incident", "show", "nonsense")
		return code == 1 && strings.Contains(out, "could not begin, and touched nothing: ")
	}, patience, 100*time.Millisecond)
	assert.Equal(t, keys, s.gatewayKeys())

	run(start)
	before := s.await(workflows.PhaseOverlap)
	assert.Contains(t, keys, before.Retiring.KeyID)
	assert.Len(t, s.gatewayKeys(), 2, "another one, and none less")
	out, code := s.starter("incident", "show", "leak")
	require.Zero(t, code, out)
	assert.Contains(t, out, "NOT CONTAINED: nobody has signed for it")
	run(documented("temporal workflow signal --workflow-id incident/leak --name pause"))
	out, code = s.starter("incident", "pause", "leak", "--reason", "again")
	require.Zero(t, code, out)
	assert.Contains(t, out, "(checkout is down): what has not begun does not begin", "of who was first")
	out, code = s.starter("incident", "pause", "another")
	assert.Equal(t, 4, code, out)
	assert.Contains(t, out, `no incident "incident/another" goes on`)
	out, code = s.starter("incident", "confirm", "leak", "--sign", s.mallory.file, "--yes", "--key", credential+"="+before.Retiring.KeyID)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "the signer is not trusted")
	assert.Len(t, s.gatewayKeys(), 2)
	out, code = s.starter("incident", "confirm", "leak", "--sign", s.ann.file, "--yes")
	assert.Equal(t, 2, code, "nobody has proved which key it is: %s", out)
	out, code = s.starter("incident", "confirm", "leak", "--sign", s.ann.file, "--yes", "--key", credential+"="+before.Retiring.KeyID)
	require.Zero(t, code, out)
	assert.Contains(t, out, "incident/leak is confirmed by ann")
	eventually(t, func() bool {
		out, code = s.starter("incident", "show", "leak")
		return code == 0 && strings.Contains(out, "PAUSED by ann at ") && strings.Contains(out, "(1 of 1 credentials wait)") && strings.Contains(out, "waits: the incident is paused")
	}, patience, 200*time.Millisecond, "it waits")
	out, code = s.starter("incident", "list")
	require.Zero(t, code, out)
	assert.Contains(t, out, "paused")
	assert.Len(t, s.gatewayKeys(), 2, "nothing begins")
	out, code = s.starter("incident", "resume", "leak")
	require.Zero(t, code, out)
	assert.Contains(t, out, "incident/leak goes on; see how with: keyturn incident show incident/leak")
	eventually(t, func() bool {
		out, code = s.starter("incident", "show", "leak")
		return code == 0 && strings.Contains(out, "Every exposed key is dead, after")
	}, patience, 200*time.Millisecond, "the incident ends")
	assert.Equal(t, map[string]string{before.Incoming.KeyID: "active"}, s.gatewayKeys(), "the routine's key is gone on with")
	out, code = s.starter("incident", "confirm", "leak", "--sign", s.ann.file, "--yes")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "nothing of incident/leak waits for a signature")
	s.nobodyRefused()
}

var takeovers = flag.Bool("takeovers", false, "have an emergency end what does not answer: make takeovers")

// What has the ID of the credential's rotation and does not answer, is ended after a minute, and the exposed key with it.
func TestEmergencyEndsWhatDoesNotAnswer(t *testing.T) {
	if !*takeovers {
		t.Skip("run by make takeovers")
	}
	t.Parallel()
	for name, queue := range map[string]string{"a workflow of somebody else's": "nobody-polls-this", "one that our worker does not know": workflows.TaskQueue} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := alarmed(t)
			keys := s.gatewayKeys()
			squatter, err := s.client().ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.WorkflowID(credential), TaskQueue: queue}, "Squatter")
			require.NoError(t, err)
			var old string
			for id := range keys {
				old = id
			}
			status, out, code := s.emergency(s.ann, "--key", credential+"="+old)
			require.Zero(t, code, out)
			assert.Equal(t, workflows.Contained, status.Outcome, status.Message)
			assert.NotContains(t, s.gatewayKeys(), old)
			described, err := s.client().DescribeWorkflowExecution(t.Context(), squatter.GetID(), squatter.GetRunID())
			require.NoError(t, err)
			assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_TERMINATED, described.GetWorkflowExecutionInfo().GetStatus())
			s.nobodyRefused()
		})
	}
}

// A rotation in its overlap is taken over; its worker is killed in the middle of it, and whatever was done by then, each effect is done
// once.
func TestEmergencyTakesARotationOver(t *testing.T) {
	t.Parallel()
	s := alarmed(t, "--overlap", "1h")
	s.rotate()
	before := s.await(workflows.PhaseOverlap)
	run := s.start("starter", s.connection(), "emergency", credential, "-f", s.place.Inventory, "--reason", "key in a public repository",
		"--sign", s.ann.file, "--yes", "--wait")
	eventually(t, func() bool { return s.now().Sent > 0 && s.status().Phase != workflows.PhaseOverlap || run.ended() }, patience, 20*time.Millisecond)
	s.worker.end(syscall.SIGKILL)
	s.startWorker()
	eventually(t, run.ended, patience, 100*time.Millisecond, "the incident ends")
	report := s.report()
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, before.Incoming.KeyID, report.Incoming.KeyID, "no second key was minted")
	require.Len(t, report.Contained, 1)
	assert.Equal(t, before.Retiring.KeyID, report.Contained[0].KeyID)
	assert.Equal(t, map[string]string{before.Incoming.KeyID: "active"}, s.gatewayKeys())
	s.nobodyRefused()
}
