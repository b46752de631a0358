package activities_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers/memory"
)

// death is a moment at which the process dies, and what is true then.
type death struct {
	op memory.Op
	// call of op within the activity, from 1.
	call  int
	phase memory.Phase
	// then says what is true at that moment, and what the repeated activity does.
	then string
}

// looks are the deaths of an activity that changes nothing.
func looks(op memory.Op) []death {
	return []death{
		{op, 1, memory.Before, "nothing was changed; the repeated activity looks again"},
		{op, 1, memory.After, "nothing was changed; the repeated activity looks again"},
	}
}

// deaths is the promise of every activity: what happens when the process dies before, during and after
// it. The test enacts each line, and then the rest of the rotation, or of the rollback. Dying before an
// activity began leaves it to be scheduled; dying after its last effect is the last line of each.
var deaths = map[string][]death{
	"Resolve":        nil,
	"AwaitSlot":      nil,
	"Compare":        nil,
	"LookWhetherDue": looks(memory.OpList),
	"LookUp":         looks(memory.OpList),
	"Accounts":       nil,
	"ListApplied":    nil,
	"LatestSweep":    nil,
	"SweepAstray":    nil,
	"SweepSigners":   nil,
	"ScanAccount":    looks(memory.OpPrincipals),
	"Survey":         looks(memory.OpMetadata),
	"Sweep":          looks(memory.OpAttest),
	"Diagnose":       looks(memory.OpProbe),
	"ReadAudit":      nil, // it reads a file of the worker's own
	"InspectDebt":    looks(memory.OpList),
	"Announce": {
		{memory.OpNotify, 1, memory.Before, "nobody was told; the repeated activity tells them"},
		{memory.OpNotify, 1, memory.After, "people were told; the repeated activity tells them again, with the same ID"},
	},
	"Accept":         nil, // these ask nobody and change nothing: they are simply run again
	"Recognise":      nil,
	"Prove":          nil,
	"AwaitTrust":     nil,
	"HadTraffic":     nil, // these ask health signals alone
	"AwaitTraffic":   nil,
	"Inspect":        looks(memory.OpList),
	"Watch":          looks(memory.OpCheck),
	"AwaitHealth":    looks(memory.OpCheck),
	"AwaitMissed":    looks(memory.OpList),
	"GatherEvidence": looks(memory.OpAttest),
	"LookBack":       looks(memory.OpList),
	"Notify": {
		{memory.OpNotify, 1, memory.Before, "nobody was told; the repeated activity tells them"},
		{memory.OpNotify, 1, memory.After, "people were told; the repeated activity tells them again, with the same ID"},
	},
	"Log": nil, // it only appends to the audit record, whose events are recognised by their IDs
	"Issue": {
		{memory.OpMetadata, 1, memory.Before, "nothing was done, and nobody holds the secret; the repeated activity begins anew"},
		{memory.OpPutMetadata, 1, memory.Before, "nobody holds the lease; the repeated activity takes it and begins anew"},
		{memory.OpPutMetadata, 1, memory.After, "the run holds the lease; the repeated activity finds that it has it"},
		{memory.OpPutMetadata, 2, memory.Before, "nothing was minted; the repeated activity begins anew"},
		{memory.OpPutMetadata, 2, memory.After, "the intent is written and nothing minted; the repeated activity finds no orphan and mints, and the intent stays until a later list shows nothing of it"},
		{memory.OpIssue, 1, memory.Before, "the intent is written and nothing minted; the repeated activity finds no orphan and mints, and the intent stays until a later list shows nothing of it"},
		{memory.OpIssue, 1, memory.After, "a key was minted and its secret is lost; the intent proves it ours, the repeated activity destroys it and mints another"},
		{memory.OpStage, 1, memory.Before, "a key was minted and its secret is lost; the intent proves it ours, the repeated activity destroys it and mints another"},
		{memory.OpStage, 1, memory.After, "the key is staged under the mint's token; the repeated activity finds it there and records it"},
		{memory.OpPutMetadata, 3, memory.Before, "the key is staged under the mint's token; the repeated activity finds it there and records it"},
		{memory.OpPutMetadata, 3, memory.After, "the key is staged and recorded; the repeated activity tries it"},
		{memory.OpSelfTest, 2, memory.After, "the key was tried; the repeated activity tries it again"},
		{memory.OpPutMetadata, 4, memory.Before, "the key works, which is not written, so that nobody gets it; the repeated activity tries it again"},
		{memory.OpPutMetadata, 4, memory.After, "the key works, and that is written; the repeated activity does not try it again"},
	},
	"DeliverWave": {
		{memory.OpPutMetadata, 1, memory.Before, "nobody has the key; the repeated activity tests and delivers it"},
		{memory.OpPutMetadata, 1, memory.After, "that the key is tested is written; the repeated activity tests it again, and takes neither test for a consumer"},
		{memory.OpSelfTest, 1, memory.After, "the key was tested; the repeated activity tests it again"},
		{memory.OpPutMetadata, 2, memory.After, "the key is marked as delivered, and nobody has it; the repeated activity delivers"},
		{memory.OpDeliver, 2, memory.Before, "some instances have the key; the repeated activity delivers to all, which disturbs nobody who has it"},
		{memory.OpDeliver, 3, memory.After, "all instances have the key; the repeated activity sees that they attest it"},
		{memory.OpPutMetadata, 3, memory.Before, "all attest the key, and that the attempt ended is not written; were the key discarded, that would wait until it must have ended"},
		{memory.OpPutMetadata, 4, memory.Before, "all attest the key, and since when is not written; the repeated activity writes its own time, so that the quiet window begins later, not earlier"},
		{memory.OpPutMetadata, 4, memory.After, "all is done; the repeated activity finds it so"},
	},
	"Promote": {
		{memory.OpPutMetadata, 1, memory.After, "that the key is tested is written; the repeated activity judges anew and moves CURRENT"},
		{memory.OpPutMetadata, 2, memory.Before, "nothing was changed; the repeated activity judges anew and moves CURRENT"},
		{memory.OpPutMetadata, 2, memory.After, "that the retiring key was CURRENT is written, and it still is; the repeated activity moves it"},
		{memory.OpPromote, 1, memory.Before, "CURRENT is the retiring key; the repeated activity moves it"},
		{memory.OpPromote, 1, memory.After, "CURRENT is the incoming key, and since when is not written; the repeated activity writes its own time, so that the overlap gets longer, not shorter"},
		{memory.OpPutMetadata, 3, memory.After, "all is done; the repeated activity finds it so"},
	},
	"Disable": {
		{memory.OpPutMetadata, 1, memory.After, "that the incoming key is tested is written, and who used it before; the repeated activity judges anew and disables the retiring one"},
		{memory.OpPutMetadata, 2, memory.Before, "nothing was changed; the repeated activity judges anew and disables the key"},
		{memory.OpPutMetadata, 2, memory.After, "that it begins is written, the key is active; the repeated activity judges anew and disables it"},
		{memory.OpDisable, 1, memory.Before, "that it begins is written, the key is active; the repeated activity judges anew and disables it"},
		{memory.OpDisable, 1, memory.After, "the key is disabled, and since when is not written; the repeated activity writes its own time, so that the soak gets longer, not shorter"},
		{memory.OpPutMetadata, 3, memory.After, "all is done; the repeated activity finds it so and keeps the time"},
	},
	"Enable": {
		{memory.OpEnable, 1, memory.Before, "the key is disabled; the repeated activity enables it"},
		{memory.OpEnable, 1, memory.After, "the key is active and still marked as disabled; the repeated activity clears the mark"},
		{memory.OpPutMetadata, 1, memory.After, "all is done; the repeated activity finds it so"},
	},
	"Destroy": {
		{memory.OpPutMetadata, 1, memory.After, "that the incoming key is tested is written; the repeated activity judges anew and destroys the retiring one"},
		{memory.OpDestroy, 1, memory.Before, "the key is disabled; the repeated activity judges anew and destroys it"},
		{memory.OpDestroy, 1, memory.After, "the key is gone and was not probed; the repeated activity finds it gone and probes it with the stored value"},
		{memory.OpSelfTest, 2, memory.Before, "the key is gone and was not probed; the repeated activity finds the key gone, by the record of it, and probes it"},
		{memory.OpPutMetadata, 2, memory.Before, "the key was seen to be refused, which is not written; the repeated activity probes it again"},
		{memory.OpPutMetadata, 2, memory.After, "all is done but the event; the repeated activity probes it again and writes that"},
	},
	"RestoreLabels": {
		{memory.OpPutMetadata, 1, memory.Before, "nothing was changed; the repeated activity begins anew"},
		{memory.OpPutMetadata, 1, memory.After, "that the incoming key is turned back from is written, and it is CURRENT; no rotation goes on with it, and the repeated activity moves CURRENT back"},
		{memory.OpPutMetadata, 2, memory.After, "that the retiring key is tested is written; the repeated activity tests it again"},
		{memory.OpPutMetadata, 3, memory.After, "that the retiring key is delivered is written, and CURRENT is the incoming key; what counts from it begins later, not earlier, and the repeated activity moves CURRENT back"},
		{memory.OpPromote, 1, memory.Before, "CURRENT is the incoming key; the repeated activity moves it back"},
		{memory.OpPromote, 1, memory.After, "CURRENT is the retiring key, which the metadata does not say; the repeated activity finds it moved and writes that, with its own time"},
		{memory.OpPutMetadata, 4, memory.After, "all is done; the repeated activity finds it so"},
	},
	"Discard": {
		{memory.OpPutMetadata, 1, memory.After, "that the key that is kept is tested is written; the repeated activity tests it again"},
		{memory.OpDestroy, 1, memory.Before, "the incoming key is alive; the repeated activity judges anew and destroys it"},
		{memory.OpDestroy, 1, memory.After, "the key is gone, its version and record are not; the repeated activity finds the record, sees that the key is refused, and removes both"},
		{memory.OpPrune, 1, memory.After, "key and version are gone, the record is not; the repeated activity removes it"},
		{memory.OpPurge, 2, memory.Before, "key and version are gone, copies at some instances are not; the repeated activity purges all of them"},
		{memory.OpPutMetadata, 2, memory.After, "all is done; the repeated activity finds nothing to discard"},
	},
	"ProveDeclaration": nil, // it asks nobody
	"ReviewBreakGlass": nil, // breakglass_test.go
	"RecordReview":     nil, // it writes the record alone, which knows what it has: review_test.go
	"Follow":           nil, // that of a run that it ends is in takeover_test.go
	"Freeze": {
		{memory.OpFreeze, 1, memory.Before, "deployments go on; the repeated activity freezes them"},
		{memory.OpFreeze, 1, memory.After, "deployments are frozen; the repeated activity renews that"},
	},
	"Unfreeze": {
		{memory.OpUnfreeze, 1, memory.Before, "deployments are frozen, until that ends by itself; the repeated activity ends it"},
		{memory.OpUnfreeze, 1, memory.After, "deployments go on; the repeated activity finds nothing to end"},
	},
	"TellOfIncident": {
		{memory.OpNotify, 1, memory.Before, "nobody was told; the repeated activity tells them"},
		{memory.OpNotify, 1, memory.After, "people were told; the repeated activity tells them again, with the same ID"},
	},
	"AssessExposure": looks(memory.OpList),
	"LookAtExposed":  looks(memory.OpList),
	"ReviewMisuse":   looks(memory.OpUses), // but for its event, which is recognised by its ID
	"Contain": {
		{memory.OpPutMetadata, 1, memory.After, "that the key in CURRENT is tested is written; the repeated activity judges anew and destroys the exposed one"},
		{memory.OpDestroy, 1, memory.Before, "the exposed key is alive; the repeated activity judges anew and destroys it"},
		{memory.OpDestroy, 1, memory.After, "the exposed key is gone and was not probed; the repeated activity finds it gone and probes it with the stored value"},
		{memory.OpPutMetadata, 2, memory.Before, "the key was seen to be refused, which is not written; the repeated activity probes it again"},
		{memory.OpPutMetadata, 2, memory.After, "all is done but the event; the repeated activity probes it again and writes that"},
	},
	"Record": {
		{memory.OpPurge, 2, memory.Before, "copies at some instances are gone; the repeated activity purges all of them"},
		{memory.OpPrune, 1, memory.Before, "the retired version is still stored; the repeated activity prunes it"},
		{memory.OpPrune, 1, memory.After, "the version is gone; the repeated activity finds it so and writes the record"},
		{memory.OpPutMetadata, 1, memory.After, "the record is written; the repeated activity writes the same again"},
	},
}

func TestEveryActivityHasItsDeaths(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[*activities.Activities]()
	for i := range typ.NumMethod() {
		assert.Contains(t, deaths, typ.Method(i).Name, "add the activity to the table")
	}
	assert.Len(t, deaths, typ.NumMethod(), "an activity of the table is gone")
}

// forward is the order of a rotation, back that of a rollback after its disabling.
var (
	forward = []string{
		"Accounts", "ListApplied", "LatestSweep", "SweepAstray", "SweepSigners", "ScanAccount", "Survey", "Sweep", "Diagnose", "ReadAudit", "InspectDebt", "Announce",
		"Resolve", "LookWhetherDue", "LookUp", "AwaitSlot", "Compare", "Accept", "Recognise", "AwaitTrust", "Inspect", "Issue", "DeliverWave", "Watch", "HadTraffic", "AwaitTraffic", "Promote", "AwaitHealth", "LookBack", "GatherEvidence", "Notify", "Log",
		"Prove", "ReviewBreakGlass", "Disable", "AwaitMissed", "Destroy", "Record",
	}
	contain = []string{"ProveDeclaration", "RecordReview", "TellOfIncident", "Freeze", "Follow", "LookAtExposed", "AssessExposure", "Issue", "DeliverWave", "Promote", "Contain", "ReviewMisuse", "Unfreeze", "Record"}
	back    = []string{"Issue", "DeliverWave", "Promote", "Disable", "Enable", "DeliverBack", "RestoreLabels", "Discard", "RecordBack"}
)

func TestDeaths(t *testing.T) {
	t.Parallel()
	for name, list := range deaths {
		order, ends := forward, (*crashCase).isRotated
		switch name {
		case "Enable", "RestoreLabels", "Discard":
			order, ends = back, (*crashCase).isBack
		case "ProveDeclaration", "RecordReview", "TellOfIncident", "Freeze", "Unfreeze", "Follow", "LookAtExposed", "AssessExposure", "ReviewMisuse", "Contain":
			order, ends = contain, (*crashCase).isContained
		}
		if len(list) == 0 {
			list = []death{{}}
		}
		for _, d := range list {
			t.Run(fmt.Sprintf("%s dies %s call %d of %s: %s", name, d.phase, d.call, d.op, d.then), func(t *testing.T) {
				t.Parallel()
				c := newCase(t)
				if slices.Contains(order, "Contain") {
					c.declare("key-old")
				}
				for _, step := range order {
					if step == name {
						c.dies(d)
					}
					c.run(step)
					if step == name {
						c.run(step) // and once more: an activity whose reply is lost is run again
					}
				}
				ends(c)
				assert.LessOrEqual(t, c.mostKeys, 2, "never more keys than slots")
			})
		}
	}
}

// dies makes the next activity's process die once at the moment.
func (c *crashCase) dies(d death) {
	if d.op == "" {
		c.died.Store(true)
		return
	}
	var calls atomic.Int32
	c.died.Store(false)
	c.world.On(d.op, func(p memory.Phase) {
		if c.died.Load() || p != d.phase {
			return
		}
		if int(calls.Add(1)) == d.call {
			c.died.Store(true)
			c.wait(time.Second) // nobody comes back in the same moment
			panic("the process dies")
		}
	})
}

func (c *crashCase) isRotated() {
	t := c.t
	assert.True(t, c.died.Load(), "the process died at the moment that the line names")
	assert.Equal(t, []string{c.incoming.KeyID + " active"}, c.keys())
	assert.Equal(t, map[string][]key.Label{c.incoming.StoreVersion: {key.Current}}, c.versions())
	m := c.metadata()
	assert.Empty(t, m.Intents)
	assert.Empty(t, m.Debt)
	require.Len(t, m.Keys, 1)
	assert.Equal(t, c.incoming.KeyID, m.Keys[0].KeyID)
	c.everybodyHolds(c.incoming)
	minted, destroyed := c.world.Happened(memory.OpIssue), c.world.Happened(memory.OpDestroy)
	assert.Len(t, destroyed, len(minted)-1, "every key but the new one is dead, the one from before included")
	c.auditHas(audit.KeyIssued, audit.KeyPromoted, audit.KeyDisabled, audit.KeyDestroyed, audit.ProbeRefused, audit.RotationEnded)
}

func (c *crashCase) isBack() {
	t := c.t
	assert.True(t, c.died.Load(), "the process died at the moment that the line names")
	assert.Equal(t, []string{"key-old active"}, c.keys())
	assert.Equal(t, map[string][]key.Label{c.retiring.StoreVersion: {key.Current}}, c.versions())
	m := c.metadata()
	assert.Empty(t, m.Intents)
	assert.Empty(t, m.Debt)
	for _, k := range m.Keys {
		assert.Equal(t, "key-old", k.KeyID)
		assert.True(t, k.DisabledAt.IsZero())
	}
	c.everybodyHolds(c.retiring)
	c.auditHas(audit.KeyEnabled, audit.LabelsRestored, audit.KeyDiscarded, audit.RotationEnded)
}

func (c *crashCase) everybodyHolds(k key.Ref) {
	for _, name := range fleet {
		held, _ := c.world.Held(name)
		id, err := c.world.Issuer("payments-api").Identify(context.Background(), held)
		require.NoError(c.t, err)
		assert.Equal(c.t, k.KeyID, id, name)
	}
}

func (c *crashCase) auditHas(types ...audit.Type) {
	trail, err := audit.Read(c.auditFile)
	require.NoError(c.t, err)
	seen := map[audit.Type]int{}
	for _, e := range trail.Events {
		seen[e.Type]++
	}
	for _, want := range types {
		assert.Equal(c.t, 1, seen[want], "%s is in the record once", want)
	}
}

// A key that an earlier run of the rotation disabled counts for the run that goes on only from when that run takes it over, on
// approvals of its own, wherever the process dies.
func TestDeathsOfDisablingWhatAnotherRunDisabled(t *testing.T) {
	t.Parallel()
	for _, d := range []death{
		{memory.OpPutMetadata, 1, memory.Before, "the key counts for the earlier run; the repeated activity judges anew and takes it over"},
		{memory.OpPutMetadata, 1, memory.After, "that the incoming key is tested is written; the repeated activity takes the retiring one over"},
		{memory.OpPutMetadata, 2, memory.After, "that it counts for this run is written, and no time; the repeated activity disables and writes its own"},
		{memory.OpDisable, 1, memory.Before, "that it counts for this run is written, and no time; the repeated activity disables and writes its own"},
		{memory.OpDisable, 1, memory.After, "the key is disabled once more, and since when is not written; the repeated activity writes its own time"},
		{memory.OpPutMetadata, 3, memory.After, "all is done; the repeated activity finds it so and keeps the time"},
	} {
		t.Run(fmt.Sprintf("it dies %s call %d of %s: %s", d.phase, d.call, d.op, d.then), func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable"} {
				c.run(step)
			}
			m := c.metadata()
			at := slices.IndexFunc(m.Keys, func(k key.Owned) bool { return k.KeyID == "key-old" })
			mine := m.Keys[at].DisablingRun
			require.NotEmpty(t, mine)
			m.Keys[at].DisablingRun, m.Keys[at].Approvals = "run-before", []string{"a nonce of then"}
			_, err := c.world.Store("payments-api").PutMetadata(t.Context(), m)
			require.NoError(t, err)
			c.wait(31 * time.Minute) // a soak, which was the other run's

			destroyed := activities.Destroyed{}
			revoke := activities.RevokeInput{Rotation: c.subject(), Approvals: []policy.Verdict{{Action: policy.Approve, Accepted: true, By: "ann", At: c.now()}}}
			c.execute("Destroy", revoke, &destroyed)
			require.False(t, destroyed.Decision.OK, "what another run disabled is not destroyed")

			from := c.now()
			c.dies(d)
			var disabled policy.Decision
			for range 2 { // an activity whose reply is lost is run again
				c.execute("Disable", revoke, &disabled)
				require.True(t, disabled.OK, disabled.Message)
			}
			assert.True(t, c.died.Load(), "the process died at the moment that the line names")
			old, _ := c.metadata().Key("key-old")
			assert.Equal(t, mine, old.DisablingRun)
			assert.NotEmpty(t, old.DisablingEvidence)
			assert.False(t, old.DisabledAt.Before(from), "the soak is not the other run's")
			assert.NotContains(t, old.Approvals, "a nonce of then")
			assert.Contains(t, old.Spent, "a nonce of then", "and what that run was approved by is used up")

			c.wait(20 * time.Minute)
			c.executeToNotYet("Destroy", revoke) // in the soak
			c.run("Destroy")
			c.run("Record")
			c.isRotated()
		})
	}
}
