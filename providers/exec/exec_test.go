package exec_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/exec"
	"github.com/keyturn/keyturn/providers/providertest"
)

const (
	apiKey = "ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt"
	// helper as first argument makes this test binary a program that speaks the protocol.
	helper = "exec-protocol-helper"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helper {
		program(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program behaves as it is told.
func program(behaviour string) {
	var q struct {
		Protocol, Operation, Instance string
		Key                           key.Ref
		Secret                        map[string]string
	}
	input, _ := io.ReadAll(os.Stdin)
	if err := json.Unmarshal(input, &q); err != nil || q.Protocol != "keyturn/exec/v1" || q.Operation != "check" {
		fmt.Fprintln(os.Stderr, "not the protocol")
		os.Exit(3)
	}
	switch behaviour {
	case string(providertest.Well):
		fmt.Printf(`{"ok":%t}`, q.Secret == nil || q.Secret["value"] == apiKey)
	case string(providertest.Ill):
		fmt.Println(`{"ok":false,"message":"the ledger is down"}`)
	case string(providertest.Refusing):
		fmt.Printf(`{"ok":false,"refused":true,"message":%q}`, "unknown key "+q.Secret["value"])
	case string(providertest.Telltale):
		for range 1000 {
			fmt.Fprintf(os.Stderr, "\x1b[31mbad\r\n%s%s", q.Secret["value"], input)
		}
		os.Exit(1)
	case string(providertest.Silent):
		select {}
	case "show":
		cwd, _ := os.Getwd()
		own := syscall.Getpgrp() == os.Getpid()
		seen, _ := json.Marshal(map[string]any{"question": json.RawMessage(input), "env": os.Environ(), "args": os.Args[3:], "cwd": cwd, "group": own})
		message, _ := json.Marshal(string(seen))
		fmt.Printf(`{"ok":false,"message":%s}`, message)
	}
}

// open opens a check whose program is the given command line.
func open(t require.TestingT, timeout time.Duration, command ...string) providers.Check {
	c := &exec.CheckConfig{Program: "ping", Timeout: inventory.Duration(timeout)}
	require.Empty(t, c.Problems())
	check, err := exec.Descriptor().Check.Open(providers.Environment{Program: func(name string) ([]string, error) {
		if name != "ping" {
			return nil, providers.ErrDenied
		}
		return command, nil
	}}, nil, c)
	require.NoError(t, err)
	return check
}

func input() providers.CheckInput {
	return providers.CheckInput{
		Key:    key.Ref{Principal: "ledger", KeyID: "k-7", StoreVersion: "v3", Fingerprint: "fp:00"},
		Bundle: secret.Single(secret.New([]byte(apiKey))),
	}
}

func TestSmokeTestConforms(t *testing.T) {
	t.Parallel()
	providertest.Check(t, providertest.CheckSetup{Open: func(t providertest.T, peer providertest.Peer) (providers.Check, providers.CheckInput) {
		return open(t, 0, os.Args[0], helper, string(peer)), input()
	}})
}

func TestHealthCheckConforms(t *testing.T) {
	t.Parallel()
	providertest.Check(t, providertest.CheckSetup{Keyless: true, Open: func(t providertest.T, peer providertest.Peer) (providers.Check, providers.CheckInput) {
		return open(t, 0, os.Args[0], helper, string(peer)), providers.CheckInput{Instance: "a"}
	}})
}

func TestTheProgramSeesTheQuestionAndNothingElse(t *testing.T) {
	t.Setenv("KEYTURN_TEST_SECRET", "must not be inherited")
	check := open(t, 0, os.Args[0], helper, "show", "--region", "$HOME; *")
	for name, c := range map[string]struct {
		in   providers.CheckInput
		want string
	}{
		"a smoke test": {input(), `{"protocol":"keyturn/exec/v1","operation":"check",
			"key":{"principal":"ledger","keyID":"k-7","storeVersion":"v3","fingerprint":"fp:00"},"secret":{"value":"REDACTED"}}`},
		"the check of an instance": {providers.CheckInput{Instance: "a"}, `{"protocol":"keyturn/exec/v1","operation":"check","instance":"a"}`},
	} {
		t.Run(name, func(t *testing.T) {
			err := check.Check(t.Context(), c.in)
			require.Error(t, err)
			_, text, _ := strings.Cut(err.Error(), "all is not well: ")
			var seen struct {
				Question  json.RawMessage
				Env, Args []string
				Cwd       string
				Group     bool
			}
			require.NoError(t, json.Unmarshal([]byte(text), &seen), "%v", err)
			assert.JSONEq(t, c.want, string(seen.Question))
			assert.Equal(t, []string{"--region", "$HOME; *"}, seen.Args)
			assert.Equal(t, "/", seen.Cwd)
			assert.True(t, seen.Group, "it leads a process group")
			seen.Env = slices.DeleteFunc(seen.Env, func(v string) bool { return strings.HasPrefix(v, "GOCOVERDIR=") })
			assert.Equal(t, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, seen.Env)
		})
	}
}

// script writes a shell script. It is run by naming the shell, since a file that was just written is
// "busy" while another test forks.
func script(t *testing.T, body string) string {
	path := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
	return path
}

func TestAShellScriptCanSpeakTheProtocol(t *testing.T) {
	t.Parallel()
	path := script(t, `
question=$(cat)
case $question in
*'"value":"`+apiKey+`"'*) echo '{"ok": true}' ;;
*) echo '{"ok": false, "refused": true, "message": "unknown key"}' ;;
esac`)
	in := input()
	require.NoError(t, open(t, 0, "/bin/sh", path).Check(t.Context(), in))
	in.Bundle = secret.Single(secret.New([]byte("another key, not the one")))
	require.ErrorIs(t, open(t, 0, "/bin/sh", path).Check(t.Context(), in), providers.ErrKeyRefused)
}

func TestReplies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, problem string }{
		"well":                            {`echo '{"ok":true,"message":"fine","later":1}'`, ""},
		"well, without reading":           {`exec <&-; echo '{"ok":true}'`, ""},
		"well, with words on stderr":      {`echo warning >&2; echo '{"ok":true}'`, ""},
		"nothing":                         {`:`, "not a JSON object"},
		"no JSON":                         {`echo fine`, "not a JSON object"},
		"another JSON":                    {`echo '[true]'`, "not a JSON object"},
		"no verdict":                      {`echo '{"message":"hm"}'`, "lacks the field ok"},
		"a verdict that is no boolean":    {`echo '{"ok":"yes"}'`, "not a JSON object"},
		"a contradiction":                 {`echo '{"ok":true,"refused":true}'`, "both ok and refused"},
		"two replies":                     {`echo '{"ok":true}{"ok":false}'`, "more than one JSON object"},
		"well, but failed":                {`echo '{"ok":true}'; echo sorry >&2; exit 3`, "exit status 3: sorry"},
		"killed by a signal":              {`echo '{"ok":true}'; kill -TERM $$`, "signal: terminated"},
		"an endless reply":                {`while :; do echo '{"ok":true,"message":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}'; done`, "more than 65536 bytes"},
		"endless words, and a good reply": {`i=0; while [ $i -lt 9000 ]; do echo xxxxxxxxxxxxxxx >&2; i=$((i+1)); done; echo '{"ok":true}'`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := open(t, 0, "/bin/sh", script(t, c.body)).Check(t.Context(), input())
			if c.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.problem)
			require.ErrorContains(t, err, "checking with program ping")
			assert.NotErrorIs(t, err, providers.ErrKeyRefused)
		})
	}
}

func TestTheWholeGroupDiesWithTheDeadline(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	path := script(t, `
trap '' TERM INT
sleep 300 & echo $! >> `+pids+`
(trap '' TERM; sleep 300 & echo $! >> `+pids+`; wait) &
sleep 0.1; echo $$ >> `+pids+`; wait`)
	begun := time.Now()
	err := open(t, time.Second, "/bin/sh", path).Check(t.Context(), input())
	require.ErrorContains(t, err, "it was killed")
	assert.Less(t, time.Since(begun), time.Minute) // the programs sleep for five
	text, err := os.ReadFile(pids)
	require.NoError(t, err)
	started := strings.Fields(string(text))
	require.Len(t, started, 3)
	for _, pid := range started {
		assert.Eventually(t, func() bool { return !runs(pid) }, 5*time.Second, 10*time.Millisecond, "process %s", pid)
	}
}

func TestAProcessThatIsLeftBehindDies(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	path := script(t, `sleep 300 & echo $! > `+pid+`; echo '{"ok":true}'`)
	err := open(t, 0, "/bin/sh", path).Check(t.Context(), input())
	require.ErrorContains(t, err, "left a process behind that holds its output")
	left, err := os.ReadFile(pid)
	require.NoError(t, err)
	assert.Eventually(t, func() bool { return !runs(strings.TrimSpace(string(left))) }, 5*time.Second, 10*time.Millisecond)
}

// runs tells whether a process lives; one that nobody has reaped yet does not.
func runs(pid string) bool {
	state, err := osexec.Command("ps", "-o", "stat=", "-p", pid).Output()
	return err == nil && !strings.HasPrefix(string(state), "Z")
}

func TestAProgramThatMayNotOrCannotRun(t *testing.T) {
	t.Parallel()
	c := &exec.CheckConfig{Program: "other"}
	check, err := exec.Descriptor().Check.Open(providers.Environment{Program: func(name string) ([]string, error) {
		return nil, fmt.Errorf("program %q: %w", name, providers.ErrDenied)
	}}, nil, c)
	require.NoError(t, err)
	require.ErrorIs(t, check.Check(t.Context(), input()), providers.ErrDenied)

	require.ErrorIs(t, open(t, 0, filepath.Join(t.TempDir(), "missing")).Check(t.Context(), input()), os.ErrNotExist)
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config exec.CheckConfig
		field  string
	}{
		"a name":              {exec.CheckConfig{Program: "reload-checkout.v2"}, ""},
		"no program":          {exec.CheckConfig{}, "program"},
		"a path":              {exec.CheckConfig{Program: "/bin/sh"}, "program"},
		"a command line":      {exec.CheckConfig{Program: "sh -c x"}, "program"},
		"an endless timeout":  {exec.CheckConfig{Program: "a", Timeout: inventory.Duration(time.Hour)}, "timeout"},
		"a timeout it allows": {exec.CheckConfig{Program: "a", Timeout: inventory.Duration(time.Minute)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := c.config.Problems()
			if c.field == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			assert.Equal(t, c.field, problems[0].Field)
		})
	}
}

func TestTheDocumentationNamesTheProtocol(t *testing.T) {
	t.Parallel()
	_, here, _, _ := runtime.Caller(0)
	page, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "docs", "exec-protocol.md"))
	require.NoError(t, err)
	assert.Contains(t, string(page), "`protocol` | the version")
	assert.Contains(t, string(page), `"protocol": "`+exec.Protocol+`"`)
}
