package simulation

import (
	"context"
	"encoding/json"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// requests has every declared instance send a request with the key that it uses.
func (p *play) requests() {
	for _, name := range p.script.fleet() {
		_ = p.world.Request(name) // the World notes what is refused
	}
}

// horizon is when a run that has not ended is given up.
const horizon = 24 * time.Hour

// flow sends traffic for as long as the run lasts.
func (p *play) flow(began time.Time) {
	if !p.over.Load() {
		now := p.env.Now().Sub(began)
		if now > horizon {
			p.stuck = p.standing()
			p.env.SignalWorkflow("stuck", nil) // wakes it up
			return
		}
		p.requests()
		if now < p.script.undeclared {
			_ = p.world.Request("undeclared")
		}
		if p.script.wakes && p.wakes < 20 && len(p.world.Happened(memory.OpDisable)) > 0 && p.state(first) != key.Active {
			p.wakes++
			_ = p.world.Request("undeclared")
		}
		if b := p.script.breachAt; b > 0 && now >= b && now < b+6*time.Minute {
			for range 5 {
				_ = p.world.Request("broken")
			}
		}
		p.decide()
		p.actInPhase()
		p.env.RegisterDelayedCallback(func() { p.flow(began) }, traffic)
	}
}

// state is what the issuer makes of a key; empty for a dead one.
func (p *play) state(keyID string) key.State {
	keys, err := p.world.Issuer(principal).List(context.Background())
	if err != nil {
		panic(err) // of a World nothing is refused outside an activity
	}
	for _, k := range keys {
		if k.KeyID == keyID {
			return k.State
		}
	}
	return ""
}

// standing is what the run says of itself.
func (p *play) standing() string {
	value, err := p.env.QueryWorkflow(workflows.StatusName)
	if err != nil {
		return err.Error()
	}
	var text json.RawMessage
	if err := value.Get(&text); err != nil {
		return err.Error()
	}
	return string(text)
}

// decide approves a gate that waits, once people have seen it.
func (p *play) decide() {
	if p.script.approvals+p.script.signoffs == 0 {
		return
	}
	value, err := p.env.QueryWorkflow(workflows.StatusName)
	if err != nil {
		return
	}
	var st workflows.Status
	if value.Get(&st) != nil || st.Gate == nil {
		return
	}
	opened, late := st.Gate.OpenedAt, p.script.decideAfter
	if _, seen := p.gates[opened]; !seen {
		p.gates[opened] = false
	}
	if len(p.gates) > 2 {
		late = min(late, 5*time.Minute) // they have been told often enough
	}
	if p.gates[opened] || p.env.Now().Before(opened.Add(late)) {
		return
	}
	p.gates[opened] = true
	p.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: st.Gate.Gate, By: "ann"})
	p.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: st.Gate.Gate, By: "ann", ID: "again"}) // counts once
	for _, more := range []string{"bob", "cid"}[:st.Gate.Needs.Count-1] {                                   // one more than the policy says where no use is told
		p.env.SignalWorkflow(workflows.ApproveName, policy.Request{Gate: st.Gate.Gate, By: more})
	}
}

// actInPhase does what is to be done in the phase in which the run is.
func (p *play) actInPhase() {
	for n, a := range p.script.acts {
		if a.in == "" || p.acted[n] {
			continue
		}
		var st workflows.Status
		if value, err := p.env.QueryWorkflow(workflows.StatusName); err == nil && value.Get(&st) == nil && st.Phase == a.in {
			p.acted[n] = true
			p.act(a)
		}
	}
}

func (p *play) act(a act) {
	switch a.what {
	case "rollback":
		p.env.SignalWorkflow(workflows.RollbackName, policy.Request{By: "ann", Reason: "errors"})
	case "reject":
		for _, gate := range inventory.Gates { // of which one waits
			p.env.SignalWorkflow(workflows.RejectName, policy.Request{Gate: gate, By: "ann", Reason: "errors"})
		}
	case "extend":
		p.env.SignalWorkflow(workflows.ExtendName, policy.Request{By: "ann", Extension: inventory.Duration(30 * time.Minute)})
	case "cancel":
		p.env.CancelWorkflow()
	case "compromised":
		p.env.SignalWorkflow(workflows.CompromisedName, workflows.Compromised{
			Incident: "incident/leak", Reason: "a leak", Emergency: &workflows.Emergency{Incidents: []string{"incident/leak"}},
		})
	}
}
