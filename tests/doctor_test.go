package tests

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// doctor runs doctor, and returns its checks by name, and the exit code.
func (s *stage) doctor(args ...string) (map[string]policy.Check, int) {
	s.t.Helper()
	out, code := s.starter(append([]string{"doctor", "-o", "json"}, args...)...)
	var list []policy.Check
	require.NoError(s.t, json.Unmarshal([]byte(out), &list), out)
	checks := map[string]policy.Check{}
	for _, c := range list {
		checks[c.Name] = c
	}
	return checks, code
}

// fails sees that just this check fails, and says why and what to do.
func (s *stage) fails(check, says, do string) {
	s.t.Helper()
	timeout := patience
	if check == policy.CheckWorkers {
		timeout = 15 * time.Second // somebody does not answer
	}
	checks, code := s.doctor("--timeout", timeout.String())
	assert.Equal(s.t, 1, code)
	assert.Equal(s.t, policy.CheckFailed, checks[check].State, checks)
	assert.Contains(s.t, checks[check].Message, says)
	assert.Contains(s.t, checks[check].Do, do)
	for name, c := range checks {
		if name != check && name != policy.CheckWorkers {
			assert.NotEqual(s.t, policy.CheckFailed, c.State, "%s: %s", name, c.Message)
		}
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	s := &trustingStage{stage: onOwnServer(t)}
	checks, code := s.doctor()
	assert.Equal(t, 1, code)
	assert.Contains(t, checks[policy.CheckDeployment].Do, "setup --build-id")
	assert.Contains(t, checks[policy.CheckSweep].Do, "keyturn setup")
	assert.Contains(t, checks[policy.CheckWorkers].Do, "start one")

	// Setup says what it did, and does it once.
	var done struct {
		CurrentBuild, Sweep, SweepEvery, Retention string
		SweepCreated                               bool
		Warnings                                   []string
	}
	for n, created := range []bool{true, false} {
		out, code := s.starter("setup", "--build-id", "test", "-o", "json")
		require.Zero(t, code, out)
		require.NoError(t, json.Unmarshal([]byte(out), &done), out)
		assert.Equal(t, created, done.SweepCreated, "run %d", n)
		assert.Equal(t, []string{"test", workflows.SweepScheduleID, "1h", "3d"}, []string{done.CurrentBuild, done.Sweep, done.SweepEvery, done.Retention})
		require.Len(t, done.Warnings, 1)
		assert.Contains(t, done.Warnings[0], "deleted 3d after its end")
	}
	out, code := s.starter("setup", "--namespace", "nowhere")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "temporal operator namespace create --namespace nowhere")

	s.startServices()
	s.ann, s.olga = newPerson(t, s.folder, "ann"), newPerson(t, s.folder, "olga")
	s.signers, s.owners = filepath.Join(s.folder, "signers"), filepath.Join(s.folder, "owners")
	trust(t, s.signers, s.ann)
	trust(t, s.owners, s.olga)
	s.rewrite(s.place.Worker, "audit:", "trust:\n  inventory: [{environments: [sandbox], allowedSigners: '"+s.signers+"'}]\n  approvers: {owners: '"+s.owners+"'}\naudit:")
	var taking atomic.Bool
	taken := make(chan string, 10)
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !taking.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		taken <- string(body)
	}))
	t.Cleanup(sink.Close)
	s.rewrite(s.place.Worker, "audit: {", "audit: {sink: {type: webhook, url: '"+sink.URL+"'}, ")
	s.startWorker()
	comes(func() bool { checks, code = s.doctor(); return code == 0 }, patience, time.Second) // a poller shows once it has polled
	assert.Zero(t, code, checks)
	for name, c := range checks {
		want := policy.CheckOK
		if name == policy.CheckRetention { // the sandbox keeps histories for three days
			want = policy.CheckWarning
		}
		assert.Equal(t, want, c.State, "%s: %s", name, c.Message)
	}
	out, code = s.starter("doctor")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "0 failed, 1 warning.")

	// What waits in the audit file, while the sink takes nothing.
	record, err := audit.OpenFile(s.place.Audit)
	require.NoError(t, err)
	require.NoError(t, record.Append(t.Context(), audit.Event{ID: "seen/r/key.issued", Type: audit.KeyIssued, Credential: credential, Rotation: "r"}))
	comes(func() bool { checks, _ = s.doctor(); return checks[policy.CheckAuditSink].State == policy.CheckFailed }, patience, 100*time.Millisecond)
	s.fails(policy.CheckAuditSink, "503", "audit.sink")
	taking.Store(true)
	assert.Contains(t, <-taken, `"number":1,"id":"seen/r/key.issued"`)
	comes(func() bool { checks, code = s.doctor(); return code == 0 }, patience, 100*time.Millisecond)
	assert.Equal(t, policy.CheckOK, checks[policy.CheckAuditSink].State)

	// Each of what can go wrong while it runs.
	require.NoError(t, os.Rename(s.owners, s.owners+".gone"))
	s.fails(policy.CheckTrust, "owners", "allowed signers")
	require.NoError(t, os.Rename(s.owners+".gone", s.owners))

	require.NoError(t, os.Rename(s.keyFile(), s.keyFile()+".gone"))
	s.fails("account edge", "cannot use it", "worker's host")
	require.NoError(t, os.Rename(s.keyFile()+".gone", s.keyFile()))

	c := s.client()
	sweep := c.ScheduleClient().GetHandle(t.Context(), workflows.SweepScheduleID)
	require.NoError(t, sweep.Pause(t.Context(), client.SchedulePauseOptions{Note: "for the move"}))
	checks, code = s.doctor()
	assert.Zero(t, code, "a warning is no failure")
	assert.Equal(t, policy.CheckWarning, checks[policy.CheckSweep].State)
	assert.Contains(t, checks[policy.CheckSweep].Message, "for the move")
	require.NoError(t, sweep.Delete(t.Context()))
	s.fails(policy.CheckSweep, "nothing sweeps", "keyturn setup")
	out, code = s.starter("setup", "--sweep-every", "2h")
	require.Zero(t, code, out)
	assert.Contains(t, out, "made, every 2h")

	for _, x := range []struct {
		args []string
		says string
	}{
		{[]string{"--sweep-every", "2h"}, "there already, every 2h"}, {[]string{"--sweep-every", "90m"}, "changed, every 1h30m"}, {nil, "there already, every 1h30m"},
	} {
		out, code = s.starter(append([]string{"setup"}, x.args...)...)
		require.Zero(t, code, out)
		assert.Contains(t, out, x.says)
	}

	// A sweep that fails is not one that ran.
	failing, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "sweep/lost", TaskQueue: "of-nobody"}, workflows.SweepName, workflows.SweepInput{})
	require.NoError(t, err)
	require.NoError(t, c.TerminateWorkflow(t.Context(), failing.GetID(), "", "by somebody in a hurry"))
	eventually(t, func() bool {
		out, code = s.starter("sweep")
		return code == 1
	}, patience, 200*time.Millisecond, "%s", out)
	assert.Regexp(t, `no sweep has ended well: the sweeps since .* failed \(1\): terminated`, out)
	s.fails(policy.CheckSweep, "failed (1): terminated", "keyturn sweep --now")
	s.sweep()
	eventually(t, func() bool {
		checks, _ = s.doctor()
		return checks[policy.CheckSweep].State == policy.CheckOK
	}, patience, time.Second, "one has ended well since")

	// A second worker whose configuration is another; then it is killed.
	text, err := os.ReadFile(s.place.Worker)
	require.NoError(t, err)
	other := filepath.Join(s.folder, "other-worker.yaml")
	require.NoError(t, os.WriteFile(other, []byte(strings.Replace(string(text), "audit: {", "audit: {retention: 30d, ", 1)), 0o600))
	second := s.start("worker", "--config", other, s.connection(), "--health-address", anyPort, "--build-id", "test")
	s.polls(second)
	checks, code = s.doctor()
	assert.Equal(t, 1, code)
	assert.Equal(t, policy.CheckFailed, checks[policy.CheckConfig].State)
	assert.Contains(t, checks[policy.CheckConfig].Message, "workers differ")
	assert.Contains(t, s.worker.said()+second.said(), "another worker has another configuration", "who reads what the other one answered says so")
	assert.Equal(t, policy.CheckFailed, checks[policy.CheckRetention].State, checks[policy.CheckRetention].Message)
	assert.Contains(t, checks[policy.CheckRetention].Do, "--retention 30d")
	second.end(syscall.SIGKILL)
	s.fails(policy.CheckWorkers, "no answer of", "hang")

	s.worker.end(syscall.SIGKILL)
	s.fails(policy.CheckWorkers, "answers: rotations stand still, and lose nothing", "start a worker of that build")

	s.server.end(syscall.SIGKILL)
	checks, code = s.doctor()
	assert.Equal(t, 1, code)
	assert.Equal(t, policy.CheckFailed, checks[policy.CheckConnection].State)
	assert.Contains(t, checks[policy.CheckConnection].Do, "--address")
	assert.Equal(t, policy.CheckSkipped, checks[policy.CheckWorkers].State)
}

// The rights of the worker on AWS: all are there, with the documented policies; one is taken away.
func TestDoctorOnAWS(t *testing.T) {
	t.Parallel()
	moto.Need(t)
	s := newAWSStage(t)
	var checks map[string]policy.Check
	eventually(t, func() (well bool) {
		var code int
		checks, code = s.doctor()
		return code == 0
	}, patience, time.Second, "once the worker polls its queues")
	assert.Contains(t, checks["account aws"].Message, ":user/worker")
	assert.Contains(t, checks["account aws"].Message, "docs/aws-doctor-policy.json", "what could not be tried is said")
	assert.Equal(t, policy.CheckOK, checks["account secrets"].State)

	put := func(document string) {
		_, err := s.aws.IAM().PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("worker"), PolicyName: aws.String("worker"), PolicyDocument: &document})
		require.NoError(t, err)
	}
	whole := documentedPolicy(t)
	put(strings.ReplaceAll(whole, `"iam:ListAccessKeys",`, ""))
	s.fails("account aws", "iam:ListAccessKeys on user/"+credential, "docs/aws.md")
	put(strings.ReplaceAll(whole, `"secretsmanager:DescribeSecret",`, ""))
	s.fails("account secrets", "secretsmanager:DescribeSecret", "docs/aws.md")
	put(whole)

	// Who has Sweep scan the account needs more.
	s.rewrite(s.place.Worker, "type: awsiam,", "type: awsiam, scan: true,")
	s.restartWorker()
	checks, _ = s.doctor("--timeout", "20s") // the one that ended is still asked
	assert.Contains(t, checks["account aws"].Message, "iam:ListUsers")
	for _, call := range s.aws.Calls() {
		if call.Key == s.identity.ID {
			_, name, _ := strings.Cut(call.Action, ":")
			assert.True(t, strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "Describe") || name == "SimulatePrincipalPolicy", "doctor only reads: %s", call.Action)
		}
	}
	simulated := actionsOf(t, doctorPolicy)
	assert.Equal(t, []string{"iam:SimulatePrincipalPolicy"}, simulated)
	assert.Contains(t, s.aws.Actions(s.identity.ID), simulated[0])
}
