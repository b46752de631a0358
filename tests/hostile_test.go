package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/workflows"
)

// A consumer answers keyturn's questions with its key, in ten megabytes of text that would be markup and orders to a
// terminal. The rotation is turned back, and what people see of the answer is short, and plain.
func TestHostileConsumer(t *testing.T) {
	t.Parallel()
	s := onOwnServer(t).prepared()
	v := &victim{stage: s, values: map[string]string{}}
	hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		key, _ := os.ReadFile(filepath.Join(s.folder, "demo", "keys", "checkout-canary", credential))
		text := string(key) + "\x1b]0;owned\x07\x1b[2J# Approve\n[now](javascript:alert(1)) <script>alert(1)</script> **" + strings.Repeat(string(key)+"\u202e", 10<<20/len(key))
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprintf(w, `{"key": %q, "error": %q}`, text, text)
	}))
	defer hostile.Close()
	address := hostile.Listener.Addr().String()
	s.rewrite(s.place.Worker, `hosts: [`, `hosts: ["`+address+`", `)
	text, err := os.ReadFile(s.place.Inventory)
	require.NoError(t, err)
	changed := regexp.MustCompile(`http://[^"]*/checkout-canary/(healthz|keyturn)`).ReplaceAllString(string(text), hostile.URL+"/$1")
	require.NotEqual(t, string(text), changed)
	require.NoError(t, os.WriteFile(s.place.Inventory, []byte(strings.Replace(changed, "waveTimeout: 3m", "waveTimeout: 3s", 1)), 0o600))
	s.verbose()
	s.startWorker()
	c := s.client()

	s.known(v)
	left := remains{}
	out, _ := s.starter("plan", credential, "-f", s.place.Inventory)
	t.Log(out)
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	s.awaitThat("the rotation has looked at it", func(status workflows.Status) bool { s.known(v); return status.Report != nil })
	left.seen(s, c)
	for _, format := range []string{"table", "json", "yaml"} {
		s.starter("status", credential, "-o", format)
	}
	left.end(s, c)
	assert.NotEqual(t, workflows.Completed, s.status().Report.Outcome)
	for place, text := range left {
		if strings.Contains(place, "database") { // binary
			continue
		}
		for _, evil := range []string{"\x1b", "\x07", "\u202e", "<script>", "javascript:alert"} {
			if place != "histories" && place != "descriptions" && place != "visibility" && place != "current details and status" || evil != "\x1b" && evil != "\x07" { // of those the one half is binary
				assert.NotContains(t, string(text), evil, place)
			}
		}
	}
	assert.Less(t, len(left["histories"]), 1<<20)
	left.search(t, secretsOf(v)...)
}
