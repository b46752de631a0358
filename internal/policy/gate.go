package policy

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
)

// Valid are the approvals that count now, one of each person.
func (g OpenGate) Valid(now time.Time) []Verdict {
	var valid []Verdict
	people := map[string]bool{}
	for _, v := range g.Approvals {
		if approvalValid(v, now, g.Needs) && !people[v.By] {
			people[v.By] = true
			valid = append(valid, v)
		}
	}
	return valid
}

// Progress says how many of the people that the gate needs have approved, by what counts now: "1 of 2 approved".
func (g OpenGate) Progress(now time.Time) string {
	if by, broken := BrokeGlass(g.Approvals, now, g.Needs); broken {
		return "passed by break-glass of " + by.By
	}
	return fmt.Sprintf("%d of %d approved", len(g.Valid(now)), g.Needs.Count)
}

// signed tells whether only approvals with a signature count.
func (g OpenGate) signed() bool { return g.Needs.Trust != inventory.TrustAny }

// Command is what approves at the gate, as it is typed.
func (g OpenGate) Command(credential string) string {
	command := fmt.Sprintf("keyturn approve %s --gate %s", credential, g.Gate)
	if g.signed() {
		command += " --sign KEY"
	}
	return command
}

// Signal is what approves at the gate as the input of the signal or update "approve". Empty where that takes a signature, which Command
// with --print makes.
func (g OpenGate) Signal() string {
	if g.signed() {
		return ""
	}
	text, _ := json.Marshal(Request{Gate: g.Gate, By: "you"})
	return string(text)
}

// How says in one line how to approve at the gate.
func (g OpenGate) How(credential string) string {
	if g.signed() {
		return fmt.Sprintf("Approve with: %s; or send the signal approve with what that prints with --print", g.Command(credential))
	}
	return fmt.Sprintf("Approve with: %s; or send the signal approve with: %s", g.Command(credential), g.Signal())
}

// Summary is what the gate waits for, as a name that does not change while it waits: how to decide comes first, since the Web UI's
// Timeline cuts a long name.
func (g OpenGate) Summary() string {
	how := "approve " + g.Signal()
	if g.signed() {
		how = "keyturn approve --gate " + string(g.Gate) + " --sign KEY"
	}
	return fmt.Sprintf("%s gate: %s, %s", g.Gate, how, Counted(g.Needs.Count, "approval"))
}
