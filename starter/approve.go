package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func newApprove(t *terminal) *cobra.Command {
	d := &decision{action: policy.Approve}
	cmd := d.command(t, "approve CREDENTIAL --gate GATE", "Approves the gate that a rotation waits at")
	cmd.Long = `Approves the gate that a rotation waits at. With --sign, what the gate stands on is shown first, and signed after a yes, or at once with --yes.

With --break-glass one signature passes a gate of signed approvals that asks for more, or for others: that of a member of a group which
trust.breakGlass of the worker configuration names for the environment. People are told at once, and somebody else has to review it within
24 h (keyturn review rotation/CREDENTIAL), or no routine rotation of the credential begins.`
	cmd.Example = `  keyturn approve payments-api --gate revoke --sign ~/.ssh/id_ed25519
  keyturn approve payments-api --gate revoke --sign agent --break-glass --reason "bob is away, the old key ends at noon"`
	d.gateFlag(cmd)
	cmd.Flags().BoolVar(&d.req.BreakGlass, "break-glass", false, "pass the gate alone, where more or others are asked for; with --sign and --reason, and due for review in 24 h")
	cmd.Flags().BoolVar(&d.yes, "yes", false, "with --sign, do not show what the gate stands on and ask before it is signed")
	return cmd
}

// askToApprove shows what the gate stands on, and waits for a yes. A gate that does not wait is the worker's to refuse.
func (t *terminal) askToApprove(s workflows.Status, gate inventory.Gate) error {
	if s.Gate == nil || s.Gate.Gate != gate {
		return nil
	}
	printGate(t.err, s, time.Now())
	return t.ask("Type yes to sign the approval: ")
}

// printGate is what somebody must know who approves: of what, for whom, on which evidence, and what it allows.
func printGate(w io.Writer, s workflows.Status, now time.Time) {
	g := s.Gate
	rows := [][]string{
		{"credential", strings.TrimSpace(s.Credential + "  " + s.Owner)},
		{"gate", fmt.Sprintf("%s, open since %s, %s", g.Gate, clock(g.OpenedAt), g.Progress(now))},
	}
	if asked := s.Asked(); asked != "" {
		rows = append(rows, []string{"rotation asked by", asked})
	}
	for _, v := range g.Valid(now) {
		rows = append(rows, []string{"approved by", v.Person()})
	}
	if s.Retiring.KeyID != "" {
		rows = append(rows, []string{"retiring key", s.Retiring.KeyID})
	}
	if s.Incoming.KeyID != "" {
		rows = append(rows, []string{"incoming key", s.Incoming.KeyID})
	}
	if s.Evidence != nil && g.Gate == inventory.GateRevoke {
		rows = append(rows, []string{"evidence", s.Evidence.Describe()}, []string{"its digest", s.Evidence.Digest})
	}
	columns(w, append(rows, []string{"it allows", allows(s)})...)
}

// allows says what happens when a gate is passed, and how long that can be taken back.
func allows(s workflows.Status) string {
	back := "; there is no way back: " + s.OnlyForward
	switch {
	case s.Gate.Gate == inventory.GateSignoff && s.OnlyForward != "":
		return "that a key is issued and brought to consumers; once one has it" + strings.TrimPrefix(back, ";")
	case s.Gate.Gate == inventory.GateSignoff:
		return "that a key is issued and brought to consumers; until the retiring key is destroyed a rollback is possible"
	case s.Gate.Gate == inventory.GateHold && s.NoWayBack != "":
		return "that the rotation goes on without data on errors"
	case s.Gate.Gate == inventory.GateHold:
		return "that the rotation goes on without data on errors; it can be turned back as before"
	}
	return "that the retiring key is disabled, where its issuer can do that, and destroyed after the soak; once it is destroyed nothing brings it back"
}
