package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// Whoever may write to the namespace can run a workflow that answers anything for a status.
func TestATerminalObeysNothingThatARotationSays(t *testing.T) {
	t.Parallel()
	const bad = "\x1b]0;pwned\x07\x1b[2J\u009b31m\u202e\rx"
	long := bad + strings.Repeat("y", 1<<20)
	ref := key.Ref{Principal: bad, KeyID: long}
	decisions := []policy.Decision{{Reason: policy.Reason(bad), Message: long}}
	report := workflows.Report{
		Credential: bad, Outcome: workflows.Outcome(bad), Message: long, Retiring: ref, Incoming: ref, Probe: bad,
		Refusals: decisions, Open: []string{bad}, Debt: []key.Debt{{Kind: bad, About: bad}},
		Misuse: &policy.Misuse{Uses: []policy.JudgedUse{{Use: key.Use{KeyID: bad, Source: bad, Action: long}}}, Unseen: []string{bad}, Outlives: bad},
	}
	status := workflows.Status{
		Credential: bad, Phase: workflows.Phase(bad), Doing: long, WaitsFor: bad, UnblockedBy: bad, Retiring: ref, NoWayBack: bad,
		Waves: []workflows.WaveStatus{{Name: bad, State: bad, Instances: []string{long}, Behind: []string{bad}, Budget: bad}}, Takes: bad, Budget: bad, Notices: []string{bad}, Gate: &policy.OpenGate{Gate: bad},
		Evidence: &policy.Evidence{Missing: decisions}, Timeline: []workflows.Moment{{Phase: workflows.Phase(bad), What: long}},
	}
	plan := policy.Plan{
		Credential: bad, Retiring: &ref, Steps: []policy.Step{{Phase: bad, What: bad, Undo: bad}}, Refusals: decisions, Warnings: []string{long},
	}
	for name, print := range map[string]func(*terminal, *bytes.Buffer){
		"status": func(t *terminal, out *bytes.Buffer) { t.printStatus(out, standing{Status: status, Watch: bad}) },
		"report": func(t *terminal, out *bytes.Buffer) { t.printReport(out, report) },
		"plan":   func(t *terminal, out *bytes.Buffer) { t.printPlan(out, plan) },
	} {
		var out bytes.Buffer
		print(&terminal{output: "table"}, &out)
		assert.Equal(t, -1, strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }), name)
		assert.Less(t, out.Len(), 64<<10, name)
	}
}

func TestAReportIsPrintedOnceAndOnOneLine(t *testing.T) {
	t.Parallel()
	const message = "the worker does not take the spec: spec:1:2: a is not a known field"
	report := workflows.Report{
		Credential: "payments-api", Outcome: workflows.Refused, Message: message + "\nspec:1:9: b is not a known field",
		Refusals: []policy.Decision{{Reason: policy.SpecRefused, Message: message}},
	}
	status := workflows.Status{
		Credential: "payments-api", Phase: workflows.PhaseEnded, Doing: report.Message, RequestedBy: "ann", Reason: "quarterly",
		Timeline: []workflows.Moment{{Phase: workflows.PhaseEnded, What: "refused: " + report.Message}}, Report: &report,
	}
	var out bytes.Buffer
	require.NoError(t, (&terminal{output: "table", out: &out}).showStatus(standing{Status: status}))
	assert.Equal(t, 1, strings.Count(out.String(), message), out.String())
	assert.Contains(t, out.String(), "a is not a known field; spec:1:9: b is not a known field")
	assert.NotContains(t, out.String(), `\n`)
	assert.Contains(t, out.String(), "ann: quarterly")
}

// What is known of who used the exposed keys is in the status of the emergency, too, unusual uses first.
func TestTheEndOfAnEmergencyTellsOfMisuse(t *testing.T) {
	t.Parallel()
	use := func(kind policy.UseKind, from string) policy.JudgedUse {
		return policy.JudgedUse{Use: key.Use{KeyID: "key-old", Source: from}, Kind: kind}
	}
	report := workflows.Report{Credential: "payments-api", Outcome: workflows.Completed, Misuse: &policy.Misuse{
		Uses: []policy.JudgedUse{use(policy.UsedAsExpected, "10.0.0.1"), use(policy.UsedByStranger, "203.0.113.9")},
	}}
	var out bytes.Buffer
	require.NoError(t, (&terminal{output: "table", out: &out}).showStatus(standing{Status: workflows.Status{Credential: "payments-api", Report: &report}}))
	stranger, expected := strings.Index(out.String(), "203.0.113.9"), strings.Index(out.String(), "10.0.0.1")
	assert.Positive(t, stranger, out.String())
	assert.Greater(t, expected, stranger)

	report.Misuse = nil
	out.Reset()
	require.NoError(t, (&terminal{output: "table", out: &out}).showStatus(standing{Status: workflows.Status{Credential: "payments-api", Report: &report}}))
	assert.NotContains(t, out.String(), "misuse")
}

func TestAGateSaysTheSameWhereverItIsShown(t *testing.T) {
	t.Parallel()
	expired := policy.Verdict{Action: policy.Approve, Accepted: true, By: "ann", Verified: true, Groups: []string{"owners"}, At: time.Now().Add(-time.Hour)}
	valid := expired
	valid.By, valid.At = "bob", time.Now()
	status := workflows.Status{Credential: "payments-api", Gate: &policy.OpenGate{
		Gate: inventory.GateRevoke, Approvals: []policy.Verdict{expired, valid},
		Needs: inventory.Approval{Count: 2, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: inventory.Duration(time.Minute)},
	}}
	var out bytes.Buffer
	(&terminal{output: "table"}).printStatus(&out, standing{Status: status})
	assert.Contains(t, out.String(), "revoke: 1 of 2 approved")
	assert.Contains(t, out.String(), "keyturn approve payments-api --gate revoke --sign KEY")
	waits := awaited{Credential: "payments-api"}
	waits.complete(status, nil)
	assert.Equal(t, 1, waits.Have)
	assert.Equal(t, "keyturn approve payments-api --gate revoke --sign KEY", waits.Approve)
	assert.Empty(t, waits.Signal)
	status.Gate.Needs.Trust = inventory.TrustAny
	waits.complete(status, nil)
	assert.JSONEq(t, `{"gate":"revoke","by":"you"}`, waits.Signal)
}
