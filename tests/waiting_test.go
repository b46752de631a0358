package tests

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who waits is told at once what for: that there is no worker, and what keeps failing.
func TestWhoWaitsIsToldWhatFor(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory, "-o", "json")
	require.Zero(t, code, out)
	assert.Contains(t, out, `"warnings": [`)
	out, code = s.starter("plan", credential, "-f", s.place.Inventory, "--timeout", "20s")
	assert.Equal(t, 5, code, out)
	assert.Contains(t, out, "warning: no worker polls task queue keyturn")
	out, code = s.starter("status", "-o", "json")
	require.Zero(t, code, out)
	assert.Contains(t, out, `"credential": "`+credential+`"`)

	watch := s.start("starter", s.connection(), "status", credential, "--watch")
	watch.prints("nobody answers")
	require.NoError(t, os.Rename(s.keyFile(), s.keyFile()+".gone"))
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	watch.prints("failing +Inspect, which is tried again .*keys.json: no such file")
	out, code = s.starter("plan", credential, "-f", s.place.Inventory, "--timeout", "20s")
	assert.Equal(t, 5, code, out)
	assert.Contains(t, out, "warning: failing is Inspect, which is tried again")
	assert.Contains(t, out, "no answer in time; the last failure was of Inspect")
	var told struct {
		Retrying struct {
			Activity, Failure string
			Attempt           int
		}
	}
	eventually(t, func() bool {
		out, code = s.starter("status", credential, "-o", "json")
		return code == 0 && json.Unmarshal([]byte(out), &told) == nil && told.Retrying.Activity != ""
	}, patience, 100*time.Millisecond)
	assert.Equal(t, "Inspect", told.Retrying.Activity)
	assert.Contains(t, told.Retrying.Failure, "no such file")

	require.NoError(t, os.Rename(s.keyFile()+".gone", s.keyFile()))
	s.approves()
	watch.prints("completed")
	eventually(t, watch.ended, patience, 10*time.Millisecond)
}

// prints waits for a line on the standard output in which there is what a pattern describes.
func (p *process) prints(pattern string) {
	p.t.Helper()
	what := regexp.MustCompile(pattern)
	end := time.After(patience)
	for {
		select {
		case line, more := <-p.lines:
			require.True(p.t, more, "it ended and never printed %s", pattern)
			if what.MatchString(line) {
				return
			}
		case <-end:
			require.Fail(p.t, "it never printed "+pattern)
		}
	}
}
