package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/schedule"
)

// applying is a namespace that inventories are applied to; no worker is needed for that.
type applying struct {
	*stage
	schedules *schedule.Schedules
	client    client.Client
}

func newApplying(t *testing.T) *applying {
	t.Helper()
	a := &applying{stage: onSharedServer(t)}
	a.schedules, a.client = a.stage.schedules()
	return a
}

func (s *stage) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.folder, name)
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(s.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// applied is what apply says of itself.
type applied struct {
	Changes []struct {
		Action, Credential string
		Fields             []struct{ Field, From, To string }
		Notes              []string
	}
	Done   int
	Failed []string
	Error  string
}

func (a applied) actions() map[string]string {
	actions := map[string]string{}
	for _, c := range a.Changes {
		actions[c.Credential] = c.Action
	}
	return actions
}

// apply runs the command, which must end with this code.
func (s *stage) apply(code int, args ...string) applied {
	s.t.Helper()
	out, got := s.starter(append([]string{"apply", "-o", "json"}, args...)...)
	require.Equal(s.t, code, got, out)
	var result applied
	require.NoError(s.t, json.Unmarshal([]byte(out), &result), out)
	return result
}

// listed waits until the index has exactly these credentials.
func (a *applying) listed(names ...string) []schedule.Entry {
	a.t.Helper()
	var entries []schedule.Entry
	eventually(a.t, func() bool {
		var err error
		entries, err = a.schedules.List(a.t.Context(), "", "")
		var have []string
		for _, e := range entries {
			have = append(have, e.Credential)
		}
		return err == nil && strings.Join(have, " ") == strings.Join(names, " ")
	}, patience, 50*time.Millisecond)
	return entries
}

func TestApplyShowsWhatItDoesAndDoesItOnce(t *testing.T) {
	t.Parallel()
	a := newApplying(t)
	file := a.file("payments.yaml", declared("payments", []string{"a", "b", "c"}, nothingMore))

	dry := a.apply(0, "-f", file, "--dry-run")
	assert.Equal(t, map[string]string{"a": "create", "b": "create", "c": "create"}, dry.actions())
	a.listed()
	assert.Equal(t, 3, a.apply(0, "-f", file).Done)
	before := a.listed("a", "b", "c")
	again := a.apply(0, "-f", file)
	assert.Equal(t, map[string]string{"a": "keep", "b": "keep", "c": "keep"}, again.actions())
	assert.Zero(t, again.Done)
	assert.Equal(t, before, a.listed("a", "b", "c"), "not even a generation has changed")

	// Each change is shown field by field; what a file has no more stays until it is pruned.
	file = a.file("payments.yaml", declared("payments", []string{"a", "b", "d"}, func(name string) string {
		return map[string]string{"a": "    scopes: [charge:create]\n    rotateEvery: 60d\n", "b": "    schedule: {paused: vault is moving}\n"}[name]
	}))
	changed := a.apply(0, "-f", file)
	assert.Equal(t, map[string]string{"a": "change", "b": "pause", "c": "leave", "d": "create"}, changed.actions())
	require.Len(t, changed.Changes[0].Fields, 2)
	assert.Equal(t, "rotateEvery", changed.Changes[0].Fields[0].Field)
	assert.Equal(t, "90d", changed.Changes[0].Fields[0].From)
	assert.Equal(t, "60d", changed.Changes[0].Fields[0].To)
	assert.Equal(t, "scopes[0]", changed.Changes[0].Fields[1].Field)
	b, err := a.schedules.Describe(t.Context(), "payments", "b")
	require.NoError(t, err)
	assert.True(t, b.Paused)
	assert.Contains(t, b.Note, "vault is moving")

	// Removing needs to be meant.
	a.listed("a", "b", "c", "d")
	refused := a.apply(2, "-f", file, "--prune")
	assert.Equal(t, "remove", refused.actions()["c"])
	assert.Contains(t, refused.Error, "--yes")
	a.listed("a", "b", "c", "d")
	assert.Equal(t, 1, a.apply(0, "-f", file, "--prune", "--yes").Done)
	a.listed("a", "b", "d")

	// A pause that the inventory takes back ends.
	eventually(t, func() bool { return a.listed("a", "b", "d")[1].Paused }, patience, 50*time.Millisecond)
	file = a.file("payments.yaml", declared("payments", []string{"a", "b", "d"}, nothingMore))
	assert.Equal(t, "resume", a.apply(0, "-f", file).actions()["b"])
	b, err = a.schedules.Describe(t.Context(), "payments", "b")
	require.NoError(t, err)
	assert.False(t, b.Paused)
}

func TestApplySignsAgainOnlyWhatIsNotSignedSo(t *testing.T) {
	t.Parallel()
	a := newApplying(t)
	ann, bea := newPerson(t, a.folder, "ann"), newPerson(t, a.folder, "bea")
	file := a.file("payments.yaml", declared("payments", []string{"a"}, nothingMore))
	a.apply(0, "-f", file, "--sign", ann.file)
	a.listed("a")
	assert.Equal(t, "keep", a.apply(0, "-f", file, "--sign", ann.file).actions()["a"])
	assert.Equal(t, "keep", a.apply(0, "-f", file).actions()["a"], "a signature is not taken away")
	by := a.apply(0, "-f", file, "--sign", bea.file)
	require.Equal(t, "change", by.actions()["a"])
	assert.Equal(t, "signer", by.Changes[0].Fields[0].Field)
	eventually(t, func() bool { return a.listed("a")[0].Signer == by.Changes[0].Fields[0].To }, patience, 50*time.Millisecond)

	out, code := a.starter("apply", "-f", a.file("payments.yaml", declared("payments", []string{"a"}, func(string) string { return "    rotateEvery: 60d\n" })))
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "sign it again, with --sign KEY")
	assert.Equal(t, "change", a.apply(0, "-f", file, "--sign", bea.file, "--valid", "400d").actions()["a"])
	described, err := a.schedules.Describe(t.Context(), "payments", "a")
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now().Add(400*24*time.Hour), described.NotAfter, time.Hour)
}

func TestTwoInventoriesNeverTouchEachOther(t *testing.T) {
	t.Parallel()
	a := newApplying(t)
	a.apply(0, "-f", a.file("payments.yaml", declared("payments", []string{"a", "b"}, nothingMore)))
	others := a.file("others.yaml", declared("others", []string{"x"}, nothingMore))
	a.apply(0, "-f", others)
	a.listed("a", "b", "x")

	a.apply(0, "-f", others, "--prune", "--yes")
	a.listed("a", "b", "x")
	out, code := a.starter("apply", "-f", a.file("greedy.yaml", declared("others", []string{"x", "b"}, nothingMore)))
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, `credential "b" belongs to inventory "payments"`)
	assert.Contains(t, out, "Nothing was changed")
	renamed := strings.Replace(declared("others", []string{"x", "z"}, nothingMore), "principal: z", "principal: a", 1)
	out, code = a.starter("apply", "-f", a.file("sly.yaml", renamed))
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, `credential "z" has the issuer gateway/edge/a that credential "a" of inventory "payments" has`)
	path := strings.Replace(declared("others", []string{"x", "z"}, nothingMore), "path: z", "path: a", 1)
	out, code = a.starter("apply", "-f", a.file("slyer.yaml", path))
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, `the store file/vault-dir/a`)

	// Another name for the same key is a removal and a creation, of one inventory.
	other := strings.Replace(declared("others", []string{"y"}, nothingMore), "principal: y", "principal: x", 1)
	file := a.file("renamed.yaml", other)
	out, code = a.starter("apply", "-f", file)
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "remove that with --prune")
	a.apply(0, "-f", file, "--prune", "--yes")
	a.listed("a", "b", "y")

	// A folder is all its files, and an error in one of them stops all.
	a.file("both/payments.yaml", declared("payments", []string{"a", "b"}, nothingMore))
	a.file("both/more/others.yml", other)
	a.file("both/.hidden.yaml", "nonsense")
	assert.Len(t, a.apply(0, "-f", filepath.Join(a.folder, "both")).Changes, 3)
	a.file("both/wrong.yaml", "apiVersion: keyturn/v1\ninventory: wrong\ncredentials: none\n")
	out, code = a.starter("apply", "-f", filepath.Join(a.folder, "both"))
	assert.Equal(t, 2, code, out)
	assert.Contains(t, out, "wrong.yaml:3:")
}

// Somebody pauses a credential by hand, with another tool; apply goes on around that.
func TestApplyDoesNotUnpauseWhatAPersonPaused(t *testing.T) {
	t.Parallel()
	a := newApplying(t)
	file := a.file("payments.yaml", declared("payments", []string{"a"}, nothingMore))
	a.apply(0, "-f", file)
	a.listed("a")
	handle := a.client.ScheduleClient().GetHandle(t.Context(), schedule.ID("payments", "a"))
	require.NoError(t, handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "audit"}))
	eventually(t, func() bool { return a.listed("a")[0].Paused }, patience, 50*time.Millisecond)
	file = a.file("payments.yaml", declared("payments", []string{"a"}, func(string) string { return "    rotateEvery: 60d\n" }))
	changed := a.apply(0, "-f", file)
	assert.Contains(t, changed.Changes[0].Notes, "it stays paused, as somebody made it: audit")
	described, err := a.schedules.Describe(t.Context(), "payments", "a")
	require.NoError(t, err)
	assert.True(t, described.Paused)
	assert.Equal(t, "audit", described.Note)
	assert.Equal(t, "60d", described.Spec.Credential.RotateEvery.String())
}

// An apply that is killed halfway has done some; the next one does the rest, and two at once do each once.
func TestApplyGoesOnWhereItWasInterrupted(t *testing.T) {
	t.Parallel()
	a := newApplying(t)
	var names []string
	for n := range 150 {
		names = append(names, "key-"+strconv.Itoa(1000+n))
	}
	file := a.file("many.yaml", declared("many", names, nothingMore))
	first := a.start("starter", "--address", a.address, "apply", "-f", file)
	eventually(t, func() bool {
		entries, err := a.schedules.List(t.Context(), "many", "")
		return err == nil && len(entries) > 5
	}, patience, 10*time.Millisecond)
	first.end(syscall.SIGKILL)
	entries, err := a.schedules.List(t.Context(), "many", "")
	require.NoError(t, err)
	t.Logf("killed after %d of %d", len(entries), len(names))

	second := a.start("starter", "--address", a.address, "apply", "-f", file)
	a.apply(0, "-f", file)
	<-second.done
	assert.Zero(t, second.cmd.ProcessState.ExitCode())
	a.listed(names...)
	assert.Zero(t, a.apply(0, "-f", file).Done)
}
