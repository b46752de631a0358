package audit_test

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/audit"
)

func excerptIDs(x audit.Excerpt) []string {
	list := []string{}
	for _, e := range x.Events {
		list = append(list, e.ID)
	}
	return list
}

func TestAnExcerptIsOfOneCredentialAlone(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	other, later := event("other"), event("later")
	other.Credential, later.Rotation = "reports-api", "r2"
	require.NoError(t, f.Append(t.Context(), event("a"), other, event("b"), event("a"), later))
	for name, c := range map[string]struct {
		credential, rotation string
		want                 []string
	}{
		"all of it":        {"payments-api", "", []string{"a", "b", "later"}},
		"of one rotation":  {"payments-api", "r2", []string{"later"}},
		"of another":       {"reports-api", "", []string{"other"}},
		"of nobody":        {"payments", "", []string{}},
		"of its prefix":    {"", "", []string{}},
		"of no rotation":   {"payments-api", "r", []string{}},
		"of another's one": {"reports-api", "r2", []string{}},
	} {
		found, err := audit.ReadOf(path, c.credential, c.rotation, 1<<20)
		require.NoError(t, err, name)
		assert.Equal(t, c.want, excerptIDs(found), name)
		assert.Equal(t, audit.Excerpt{Events: found.Events}, found, name)
	}
}

func TestAnExcerptHasTheNewestThatFitAndSaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	for i := range 10 {
		require.NoError(t, f.Append(t.Context(), event(fmt.Sprint(i))))
	}
	require.NoError(t, f.Append(t.Context(), event("0"))) // one that was left out is not told again as the newest
	text, err := json.Marshal(event("0"))
	require.NoError(t, err)
	found, err := audit.ReadOf(path, "payments-api", "", 3*len(text)+3)
	require.NoError(t, err)
	assert.Equal(t, []string{"7", "8", "9"}, excerptIDs(found))
	assert.Equal(t, 7, found.Left)
}

func TestAnExcerptCountsDamageAndFilesThatWereRenamed(t *testing.T) {
	t.Parallel()
	f, path := open(t)
	require.NoError(t, f.Append(t.Context(), event("a")))
	for _, old := range []string{".1", ".2.gz", "-20260504"} {
		require.NoError(t, os.WriteFile(path+old, []byte("{}\n"), 0o600))
	}
	require.NoError(t, os.WriteFile(path+"x", nil, 0o600)) // another file
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteString("{\n[]\n")
	require.NoError(t, err)
	require.NoError(t, file.Close())
	found, err := audit.ReadOf(path, "payments-api", "", 1<<20)
	require.NoError(t, err)
	assert.Equal(t, audit.Excerpt{Events: []audit.Event{event("a")}, Damaged: 2, Renamed: 3}, found)

	require.NoError(t, os.Remove(path)) // logrotate was here, and nothing happened since
	found, err = audit.ReadOf(path, "payments-api", "", 1<<20)
	require.NoError(t, err)
	assert.Equal(t, audit.Excerpt{Events: []audit.Event{}, Renamed: 3}, found)
}

func TestAnExcerptOfWhatIsNoFileIsAnError(t *testing.T) {
	t.Parallel()
	_, err := audit.ReadOf(t.TempDir(), "payments-api", "", 1<<20)
	require.ErrorContains(t, err, "reading audit file")
}

// What somebody wrote into the file by hand draws nothing on a terminal.
func TestAnExcerptIsEscaped(t *testing.T) {
	t.Parallel()
	_, path := open(t)
	evil := event("a")
	evil.Actor = "\x1b[2J"
	text, err := json.Marshal(evil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(text, '\n'), 0o600))
	found, err := audit.ReadOf(path, "payments-api", "", 1<<20)
	require.NoError(t, err)
	assert.Equal(t, `\x1b[2J`, found.Events[0].Actor)
}
