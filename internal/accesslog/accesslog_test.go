package accesslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/accesslog"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers/providertest"
)

var since = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// logOf is a log of these lines.
func logOf(t *testing.T, lines ...string) *accesslog.Log {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
	return &accesslog.Log{Path: path, KeyID: "/request/key~1id", At: "/time", Source: "/ip", Action: "/path", Principal: "/who", Error: "/status"}
}

func line(at, id, more string) string {
	return `{"time":` + at + `,"request":{"key/id":"` + id + `"}` + more + `}`
}

func TestReadingALog(t *testing.T) {
	t.Parallel()
	at := since.Add(time.Minute)
	rfc := `"2026-03-01T12:01:00Z"`
	for name, x := range map[string]struct {
		lines  []string
		want   []key.Use
		unseen string
	}{
		"a use": {
			lines: []string{line(rfc, "k1", `,"ip":"192.0.2.1:4711","path":"/v1/charges?token=abc","who":"checkout","status":403`)},
			want:  []key.Use{{Source: "192.0.2.1", Action: "/v1/charges", Principal: "checkout", Error: "403"}},
		},
		"a status below 400 is no error":          {lines: []string{line(rfc, "k1", `,"status":"204"`)}, want: []key.Use{{}}},
		"an error of - is none":                   {lines: []string{line(rfc, "k1", `,"status":"-"`)}, want: []key.Use{{}}},
		"a time in seconds":                       {lines: []string{line("1772366460.000", "k1", "")}, want: []key.Use{{}}},
		"a time in milliseconds, as text":         {lines: []string{line(`"1772366460000"`, "k1", "")}, want: []key.Use{{}}},
		"a line with a byte order mark":           {lines: []string{"\uFEFF" + line(rfc, "k1", "")}, want: []key.Use{{}}},
		"another key's":                           {lines: []string{line(rfc, "k2", `,"ip":"k1"`)}},
		"one from before":                         {lines: []string{line(`"2026-03-01T11:59:00Z"`, "k1", "")}},
		"a use without a time cannot be read":     {lines: []string{line("null", "k1", "")}, unseen: "1 line could not be read"},
		"a line that is no JSON":                  {lines: []string{"k1 did it", line(rfc, "k1", "")}, want: []key.Use{{}}, unseen: "1 line could not be read"},
		"a line that is too long":                 {lines: []string{line(rfc, "k1", `,"path":"`+strings.Repeat("x", 100<<10)+`"`), line(rfc, "k1", "")}, want: []key.Use{{}}, unseen: "1 line could not be read"},
		"a log that was rotated":                  {lines: []string{line(rfc, "k2", "")}, unseen: "it begins at 2026-03-01T12:01:00Z: what was rotated away was not read"},
		"an empty log":                            {unseen: "it has no line with a time"},
		"the last line without an end":            {lines: []string{"", line(rfc, "k1", "")}, want: []key.Use{{}}},
		"who calls themselves like a key":         {lines: []string{line(rfc, "k1", `,"who":"sk_live_4eC39HqLyjWDarjtT1zdp7dcabcdefg"`)}, want: []key.Use{{Principal: "somebody-who-is-not-named"}}},
		"a path with a key in it":                 {lines: []string{line(rfc, "k1", `,"path":"/v1/k_4eC39HqLyjWDarj/refunds"`)}, want: []key.Use{{Action: "/v1/…/refunds"}}},
		"where the pointer leads nowhere is none": {lines: []string{`{"time":` + rfc + `,"request":["k1"]}`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			uses, err := logOf(t, x.lines...).Read(t.Context(), "k1", since)
			require.NoError(t, err)
			for n := range x.want {
				x.want[n].KeyID, x.want[n].First, x.want[n].Last, x.want[n].Count = "k1", at, at, 1
			}
			assert.Equal(t, x.want, uses.List)
			if x.unseen != "" {
				assert.Contains(t, strings.Join(uses.Unseen, "\n"), x.unseen)
			}
		})
	}
}

func TestALogThatIsNone(t *testing.T) {
	t.Parallel()
	l := logOf(t)
	l.Path = filepath.Join(t.TempDir(), "none")
	_, err := l.Read(t.Context(), "k1", since)
	require.ErrorContains(t, err, "reading access log")
	require.NoError(t, syscall.Mkfifo(l.Path, 0o600))
	_, err = l.Read(t.Context(), "k1", since)
	require.ErrorContains(t, err, "it is no file", "nobody waits for a pipe")
	ended, end := context.WithCancel(t.Context())
	end()
	_, err = logOf(t).Read(ended, "k1", since)
	require.ErrorIs(t, err, context.Canceled)
}

// Whoever writes the log may write keys into it, in whatever form.
func TestNothingOfAKeyIsKept(t *testing.T) {
	t.Parallel()
	for _, told := range providertest.Tellings(secret.Bundle{}) {
		quoted, err := json.Marshal(told)
		require.NoError(t, err)
		for _, field := range []string{"ip", "who", "path", "status"} {
			uses, err := logOf(t, line(`"2026-03-01T12:01:00Z"`, "k1", `,"`+field+`":`+string(quoted))).Read(t.Context(), "k1", since)
			require.NoError(t, err)
			for _, u := range uses.List {
				providertest.AssertUntold(t, strings.Join([]string{u.Source, u.Principal, u.Action, u.Error}, " "), secret.Bundle{})
			}
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(line(`"2026-03-01T12:01:00Z"`, "k1", `,"ip":"192.0.2.1","path":"/v1","status":403`)))
	f.Add([]byte(`{"time":1e300,"request":{"key/id":"k1"}}`))
	f.Add([]byte(`[[[[[`))
	path := filepath.Join(f.TempDir(), "access.jsonl")
	l := accesslog.Log{Path: path, KeyID: "/request/key~1id", At: "/time", Source: "/ip", Action: "/path", Principal: "/who", Error: "/status"}
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(path, text, 0o600))
		uses, err := l.Read(t.Context(), "k1", time.Time{})
		require.NoError(t, err)
		count := uses.Omitted
		for _, u := range uses.List {
			count += u.Count
			for _, told := range []string{u.Source, u.Principal, u.Action, u.Error} {
				assert.LessOrEqual(t, len(told), 140)
				assert.Equal(t, accesslog.Shown(told), accesslog.Shown(accesslog.Shown(told)), "what is shown stays so")
			}
		}
		assert.LessOrEqual(t, count, bytes.Count(text, []byte("\n"))+1, "each line is one use at most")
		_, err = json.Marshal(uses)
		assert.NoError(t, err, "a history takes it")
	})
}
