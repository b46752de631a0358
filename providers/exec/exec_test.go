package exec_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	// patient is the time-out of a test that is not about it: on a busy machine a program takes its time.
	patient = inventory.Duration(2 * time.Minute)
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helper {
		program(os.Args[2])
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == hostile {
		misbehave(os.Args[2])
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
		Freeze                        providers.Freeze
	}
	input, _ := io.ReadAll(os.Stdin)
	if err := json.Unmarshal(input, &q); err != nil || q.Protocol != "keyturn/exec/v1" || !slices.Contains([]string{"check", "attest", "purge", "freeze", "unfreeze"}, q.Operation) {
		fmt.Fprintln(os.Stderr, "not the protocol")
		os.Exit(3)
	}
	if q.Operation == "attest" {
		attest(behaviour, q.Instance)
		return
	}
	if strings.HasSuffix(q.Operation, "freeze") {
		freeze(behaviour, q.Operation, q.Freeze)
		return
	}
	if q.Operation == "purge" {
		purge(behaviour, q.Instance)
		return
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
		<-time.After(time.Hour)
	case "show":
		cwd, _ := os.Getwd()
		own := syscall.Getpgrp() == os.Getpid()
		seen, _ := json.Marshal(map[string]any{"question": json.RawMessage(input), "env": os.Environ(), "args": os.Args[4:], "cwd": cwd, "group": own})
		if err := os.WriteFile(os.Args[3], seen, 0o600); err == nil {
			fmt.Print(`{"ok":true}`)
		}
	}
}

// open opens a check whose program is the given command line.
func open(t require.TestingT, timeout time.Duration, command ...string) providers.Check {
	c := &exec.Config{Program: "ping", Timeout: cmp.Or(inventory.Duration(timeout), patient)}
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
	file := filepath.Join(t.TempDir(), "seen.json")
	check := open(t, 0, os.Args[0], helper, "show", file, "--region", "$HOME; *")
	for name, c := range map[string]struct {
		in   providers.CheckInput
		want string
	}{
		"a smoke test": {input(), `{"protocol":"keyturn/exec/v1","operation":"check",
			"key":{"principal":"ledger","keyID":"k-7","storeVersion":"v3","fingerprint":"fp:00"},"secret":{"value":"` + apiKey + `"}}`},
		"the check of an instance": {providers.CheckInput{Instance: "a"}, `{"protocol":"keyturn/exec/v1","operation":"check","instance":"a"}`},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, check.Check(t.Context(), c.in))
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var seen struct {
				Question  json.RawMessage
				Env, Args []string
				Cwd       string
				Group     bool
			}
			require.NoError(t, json.Unmarshal(text, &seen))
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
		"ill, for a reason that it knows": {`echo '{"ok":false,"reason":"unreachable","message":"m"}'`, "all is not well (unreachable; a message of 1 bytes that is not repeated here)"},
		"ill, for a reason of its own":    {`echo '{"ok":false,"reason":"a key"}'`, "all is not well (a reason that keyturn does not know;"},
		"ill, without a reason":           {`echo '{"ok":false}'`, "all is not well (no reason;"},
		"a reason that is no text":        {`echo '{"ok":false,"reason":7}'`, "not a JSON object"},
		"no verdict":                      {`echo '{"message":"hm"}'`, "lacks the field ok"},
		"a verdict that is no boolean":    {`echo '{"ok":"yes"}'`, "not a JSON object"},
		"a contradiction":                 {`echo '{"ok":true,"refused":true}'`, "both ok and refused"},
		"well, after a byte order mark":   {`printf '\357\273\277{"ok":true}'`, ""},
		"two replies":                     {`echo '{"ok":true}{"ok":false}'`, "more than one JSON object"},
		"well, but failed":                {`echo '{"ok":true}'; echo sorry >&2; exit 3`, "exit status 3 (6 bytes on its standard error)"},
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

func TestAProgramThatDoesNotAnswerEndsWithItsTimeout(t *testing.T) {
	t.Parallel()
	err := open(t, 100*time.Millisecond, "/bin/sh", script(t, `exec sleep 300`)).Check(t.Context(), input())
	require.ErrorContains(t, err, "it was killed")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestTheWholeGroupDiesWithTheDeadline(t *testing.T) {
	t.Parallel()
	path, group := alive(t, `
trap '' TERM INT
sleep 300 & echo started >&3
(trap '' TERM; sleep 300 & echo started >&3; wait) &
wait`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	check, ended := open(t, 0, "/bin/sh", path), make(chan error, 1)
	go func() { ended <- check.Check(ctx, input()) }()
	for range 2 {
		group.starts(t)
	}
	cancel()
	require.ErrorContains(t, <-ended, "it was killed")
	group.dies(t)
}

func TestAProcessThatIsLeftBehindDies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, problem string }{
		"with the output in its hands": {`sleep 300 & echo started >&3; echo '{"ok":true}'`, "left a process behind that holds its output"},
		"with nothing in its hands":    {`sleep 300 >/dev/null 2>&1 & echo started >&3; echo '{"ok":true}'`, ""},
		"by a program that failed":     {`sleep 300 >/dev/null 2>&1 & echo started >&3; exit 3`, "exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, group := alive(t, c.body)
			err := open(t, 0, "/bin/sh", path).Check(t.Context(), input())
			if c.problem == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.problem)
			}
			group.starts(t)
			group.dies(t)
		})
	}
}

func TestAProcessThatLeftTheGroupHoldsNobodyUpAndLives(t *testing.T) {
	t.Parallel()
	if _, err := osexec.LookPath("setsid"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("setsid is missing: apt-get install util-linux")
		}
		t.Skip("setsid is missing: apt-get install util-linux")
	}
	for name, c := range map[string]struct{ leaves, goesOn, problem string }{
		"with the output in its hands": {`sleep 300 >&5`, `echo '{"ok":true}'`, "a process that left its group may live on"},
		"with nothing in its hands":    {`sleep 300 >/dev/null 2>&1 5>&-`, `echo '{"ok":true}'`, ""},
		"when the program is killed":   {`sleep 300 >&5`, `exec sleep 300`, "it was killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, group := alive(t, `exec 5>&1; left=$(setsid sh -c '`+c.leaves+` & echo $!'); echo $left >&3; `+c.goesOn)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			check, ended := open(t, 0, "/bin/sh", path), make(chan error, 1)
			go func() { ended <- check.Check(ctx, input()) }()
			line, err := group.said.ReadString('\n')
			require.NoError(t, err)
			left, err := strconv.Atoi(strings.TrimSpace(line))
			require.NoError(t, err)
			if c.problem == "it was killed" {
				cancel()
			}
			if err := <-ended; c.problem == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, c.problem)
			}
			assert.NoError(t, syscall.Kill(left, syscall.SIGKILL), "it lives, as the protocol says")
			group.dies(t)
		})
	}
}

// group is a pipe that the processes of a script hold, and that nobody holds any more when all of them are dead.
type group struct {
	said *bufio.Reader
	held io.Closer // the test's own hold
}

// alive writes a script that has a group's pipe as descriptor 3.
func alive(t *testing.T, body string) (path string, g *group) {
	pipe := filepath.Join(t.TempDir(), "alive")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	reading, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0) // does not wait for a writer
	require.NoError(t, err)
	held, err := os.OpenFile(pipe, os.O_WRONLY, 0) // so that it does not end before the script has it
	require.NoError(t, err)
	t.Cleanup(func() { _ = reading.Close(); _ = held.Close() })
	require.NoError(t, reading.SetReadDeadline(time.Now().Add(4*time.Minute))) // the scripts sleep for five
	return script(t, "exec 3>"+pipe+"\n"+body), &group{bufio.NewReader(reading), held}
}

func (g *group) starts(t *testing.T) {
	line, err := g.said.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "started\n", line)
}

func (g *group) dies(t *testing.T) {
	require.NoError(t, g.held.Close())
	_, err := g.said.ReadByte()
	require.ErrorIs(t, err, io.EOF, "a process of the group lives")
}

func TestAProgramThatMayNotOrCannotRun(t *testing.T) {
	t.Parallel()
	c := &exec.Config{Program: "other"}
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
		config exec.Config
		field  string
	}{
		"a name":              {exec.Config{Program: "reload-checkout.v2"}, ""},
		"no program":          {exec.Config{}, "program"},
		"a path":              {exec.Config{Program: "/bin/sh"}, "program"},
		"a command line":      {exec.Config{Program: "sh -c x"}, "program"},
		"an endless timeout":  {exec.Config{Program: "a", Timeout: inventory.Duration(time.Hour)}, "timeout"},
		"a timeout it allows": {exec.Config{Program: "a", Timeout: inventory.Duration(time.Minute)}, ""},
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
	page, err := os.ReadFile("../../docs/exec-protocol.md")
	require.NoError(t, err)
	assert.Contains(t, string(page), "`protocol` | the version")
	assert.Contains(t, string(page), `"protocol": "`+exec.Protocol+`"`)
	for _, reason := range []string{"unreachable", "timeout", "unhealthy", "unknown-instance", "denied", "misconfigured"} {
		assert.Contains(t, string(page), "`"+reason+"`")
		err := open(t, 0, "/bin/sh", script(t, `echo '{"ok":false,"reason":"`+reason+`"}'`)).Check(t.Context(), input())
		assert.ErrorContains(t, err, "("+reason+";")
	}
}

// attest states the keys of an instance by a file of JSON: behaviours and keys by instance.
func attest(file, instance string) {
	text, err := os.ReadFile(file)
	if err != nil {
		os.Exit(4)
	}
	var world map[string]struct {
		Peer providertest.Peer
		Keys []string
	}
	_ = json.Unmarshal(text, &world)
	i, exists := world[instance]
	switch {
	case !exists:
		fmt.Println(`{"ok":false,"message":"no such instance"}`)
	case i.Peer == providertest.Silent:
		<-time.After(time.Hour)
	case i.Peer == providertest.Ill:
		fmt.Println(`{"ok":false,"message":"the host is down"}`)
	case i.Peer == providertest.Telltale:
		fmt.Println("\x1b[31m" + strings.Repeat("it broke ", 1000))
		os.Exit(1)
	default:
		answer, _ := json.Marshal(map[string]any{"ok": true, "keys": i.Keys})
		fmt.Println(string(answer))
	}
}

func TestAttestation(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	providertest.Attestor(t, providertest.AttestorSetup{Open: func(t providertest.T, instances map[string]providertest.Instance, now func() time.Time) providers.Attestor {
		world := map[string]any{}
		for name, i := range instances {
			var keys []string
			for _, b := range i.Keys {
				keys = append(keys, b.Fingerprint())
			}
			world[name] = map[string]any{"Peer": i.Peer, "Keys": keys}
		}
		text, err := json.Marshal(world)
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "world.json")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		e := providers.Environment{Now: now, Program: func(string) ([]string, error) { return []string{self, helper, file}, nil }}
		a, err := exec.Descriptor().Attestor.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
		require.NoError(t, err)
		return a
	}})
}

// purge notes in a file of the folder that an instance has forgotten; the folder's name ends with the peer that a is.
func purge(folder, instance string) {
	peer := providertest.Well
	if instance == "a" {
		peer = providertest.Peer(filepath.Ext(folder)[1:])
	}
	switch {
	case instance != "a" && instance != "b":
		fmt.Print(`{"ok":false,"message":"no such instance"}`)
	case peer == providertest.Silent:
		<-time.After(time.Hour)
	case peer == providertest.Telltale:
		fmt.Printf(`{"ok":false,"message":%q}`, strings.Repeat("\x1b[31mbad\r\n", 500))
	case peer == providertest.Ill:
		fmt.Fprintln(os.Stderr, "the cache is down")
		os.Exit(1)
	default:
		f, err := os.OpenFile(filepath.Join(folder, instance), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString("x")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(`{"ok":true}`)
	}
}

func TestPurgeConforms(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	providertest.Purger(t, providertest.PurgerSetup{Open: func(t providertest.T, peer providertest.Peer) providertest.PurgerWorld {
		folder := filepath.Join(t.TempDir(), "world."+string(peer))
		require.NoError(t, os.Mkdir(folder, 0o700))
		e := providers.Environment{Now: time.Now, Program: func(string) ([]string, error) { return []string{self, helper, folder}, nil }}
		p, err := exec.Descriptor().Purge.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
		require.NoError(t, err)
		return providertest.PurgerWorld{Purger: p, Purged: func(instance string) int {
			text, err := os.ReadFile(filepath.Join(folder, instance))
			if !errors.Is(err, fs.ErrNotExist) {
				require.NoError(t, err)
			}
			return len(text)
		}}
	}})
}

func TestWhatAProgramMayNotState(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing":              `{"ok":true}`,
		"no key":               `{"ok":true,"keys":[]}`,
		"a sentence":           `{"ok":true,"keys":["the key of March"]}`,
		"more than a reload":   `{"ok":true,"keys":["a","b","c","d","e","f","g","h","i"]}`,
		"no answer":            ``,
		"an answer without ok": `{"keys":["fp:00112233445566778899aabbccddeeff"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := providers.Environment{Now: time.Now, Program: func(string) ([]string, error) {
				return []string{"/bin/sh", "-c", `cat >/dev/null; printf %s "$0"`, answer}, nil
			}}
			a, err := exec.Descriptor().Attestor.Open(e, nil, &exec.Config{Program: "ask", Timeout: patient})
			require.NoError(t, err)
			got, err := a.Attest(t.Context(), []string{"one"})
			require.Error(t, err)
			assert.Empty(t, got)
			assert.NotContains(t, err.Error(), "March")
		})
	}
}
