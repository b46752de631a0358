package workflows_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// misleading is text that a terminal, a Markdown renderer or a browser would obey.
const misleading = "\x1b[2J\u009b31m\u202eyb\u2066\x00\x07\r\n# Approved\n- [here](https://evil.example/x) <img src=x onerror=alert(1)> **b** `c` ~~d~~ $e$ |f| &lt;"

// hostileError is an error of a peer that says all of that, at length.
func hostileError() error { return errors.New(misleading + strings.Repeat("y", 1<<20)) }

// findings collects what is wrong with texts that enter the history or the Web UI.
type findings struct {
	mu   sync.Mutex
	list []string
	seen int
}

// payload judges a value: its texts are plain, and it is small.
func (f *findings) payload(what string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	if len(text) > 64<<10 {
		f.list = append(f.list, fmt.Sprintf("%s has %d bytes", what, len(text)))
	}
	var plain any
	_ = json.Unmarshal(text, &plain)
	f.texts(what, plain)
}

func (f *findings) texts(what string, value any) {
	switch v := value.(type) {
	case string:
		if strings.ContainsFunc(v, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			f.list = append(f.list, fmt.Sprintf("%s has characters that a terminal obeys: %q", what, v[:min(len(v), 200)]))
		}
	case []any:
		for _, one := range v {
			f.texts(what, one)
		}
	case map[string]any:
		for name, one := range v {
			f.texts(what+" "+name, one)
		}
	}
}

// markdown judges current details: nothing of what is misleading keeps its meaning.
func (f *findings) markdown(details string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	f.texts("current details", details)
	if len(details) > 256<<10 {
		f.list = append(f.list, fmt.Sprintf("current details have %d bytes", len(details)))
	}
	for _, bad := range []string{"<img", "[here]", "https://evil", "**b**", "`c`", "~~d~~", "$e$", "|f|", "\n# Approved", "&lt; "} {
		if strings.Contains(details, bad) {
			f.list = append(f.list, fmt.Sprintf("current details have %q", bad))
		}
	}
}

// watch judges all that activities are told and answer, and what the Web UI shows all the while.
func (f *findings) watch(s *stage) {
	completed := func(info *activity.Info, result converter.EncodedValue, err error) {
		var value any
		if result != nil && result.HasValue() && result.Get(&value) == nil {
			f.payload("result of "+info.ActivityType.Name, value)
		}
		if err != nil {
			f.payload("error of "+info.ActivityType.Name, err.Error())
		}
	}
	s.env.SetOnActivityCompletedListener(completed)
	s.env.SetOnLocalActivityCompletedListener(completed)
	s.every(time.Minute, 4*time.Hour, func() {
		if st := s.status(); st.Phase != "" {
			f.markdown(st.Markdown(s.env.Now()))
		}
	})
}

// silenced is a peer that gives no answer to what a rotation asks first, until somebody ends it.
func (s *stage) silenced(op memory.Op) {
	s.world.Fail(op, hostileError(), 10_000)
	s.request("inspect", 90*time.Minute, "rollback", policy.Request{By: "ann", Reason: "enough"})
}

func TestNothingFromOutsideReachesTheHistoryAsItIs(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*stage){
		"a check": func(s *stage) {
			s.in("canary soaking", 10*time.Second, func() { s.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: hostileError()}) })
		},
		"a check before anything is changed": func(s *stage) { s.world.SetInstance("canary", memory.InstanceSettings{Unhealthy: hostileError()}) },
		"an attestation in the overlap": func(s *stage) {
			s.impatient()
			s.in("overlap", 10*time.Minute, func() { s.world.SetInstance("canary", memory.InstanceSettings{Mute: hostileError()}) })
			s.request("evidence", 40*time.Minute, "rollback", policy.Request{By: "ann", Reason: "enough"})
			s.in("rollback", 40*time.Minute+30*time.Second, func() { s.world.SetInstance("canary", memory.InstanceSettings{}) }) // which it waits for
		},
		"an attestation before anything is changed": func(s *stage) { s.world.SetInstance("canary", memory.InstanceSettings{Mute: hostileError()}) },
		"a target":                func(s *stage) { s.world.SetInstance("canary", memory.InstanceSettings{Unreachable: hostileError()}) },
		"an issuer that lists":    func(s *stage) { s.silenced(memory.OpList) },
		"an issuer that mints":    func(s *stage) { s.world.Fail(memory.OpIssue, hostileError(), 10_000) },
		"an issuer that disables": func(s *stage) { s.approve(); s.world.Fail(memory.OpDisable, hostileError(), 10_000) },
		"an issuer that destroys": func(s *stage) { s.approve(); s.world.Fail(memory.OpDestroy, hostileError(), 10_000) },
		"a store that stages":     func(s *stage) { s.world.Fail(memory.OpStage, hostileError(), 10_000) },
		"a store that is read":    func(s *stage) { s.silenced(memory.OpRead) },
		"a receiver of messages":  func(s *stage) { s.approve(); s.world.Fail(memory.OpNotify, hostileError(), 10_000) },
		"a person's name": func(s *stage) {
			s.request("revoke-gate", 20*time.Minute+30*time.Second, "approve", policy.Request{Gate: "revoke", By: misleading})
			s.approve()
		},
		"a person's reason": func(s *stage) {
			s.request("revoke-gate", 20*time.Minute+30*time.Second, "reject", policy.Request{Gate: "revoke", By: misleading, Reason: misleading})
			s.approve()
		},
		"a person's endless reason": func(s *stage) {
			s.request("revoke-gate", 20*time.Minute+30*time.Second, "reject", policy.Request{Gate: "revoke", By: "ann", Reason: strings.Repeat("y", 1<<20)})
			s.request("revoke-gate", 20*time.Minute+30*time.Second, "approve", policy.Request{By: "ann", Gate: "revoke", Run: strings.Repeat("y", 1<<20)})
			s.approve()
		},
		"a signal that is none": func(s *stage) {
			s.in("overlap", 10*time.Minute, func() { s.env.SignalWorkflow("approve", misleading+strings.Repeat("y", 1<<20)) })
			s.approve()
		},
		"an incident": func(s *stage) {
			s.in("overlap", 10*time.Minute, func() {
				s.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{Incident: misleading, Reason: hostileError().Error()})
			})
			s.approve()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.traffic(3 * time.Hour)
			f := &findings{}
			f.watch(s)
			prepare(s)
			report := s.run()
			for i := range report.Verdicts { // what a person said was in the history before
				report.Verdicts[i].By, report.Verdicts[i].Why = "", ""
			}
			f.payload("report", report)
			assert.Empty(t, f.list)
			assert.Greater(t, f.seen, 2, "it was looked at")
		})
	}
}
