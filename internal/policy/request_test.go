package policy_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// proof is of an approval by ann, one of the owners, of what is shown now.
func proof(change func(*policy.Proof)) *policy.Proof {
	bound := here
	bound.Gate, bound.Evidence = inventory.GateRevoke, "digest-1"
	p := &policy.Proof{
		Request: policy.SignedRequest{Schema: policy.RequestSchema, Action: policy.Approve, Bound: bound, Nonce: "n", SignedAt: now},
		By:      signed.Signer{Name: "ann"}, Groups: []string{"owners"},
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestJudgeSigned(t *testing.T) {
	t.Parallel()
	waiting := func() policy.Standpoint {
		return policy.Standpoint{Now: now.Add(time.Minute), Here: here, Gate: &policy.OpenGate{
			Gate: inventory.GateRevoke, Run: "run-1", Evidence: "digest-1", OpenedAt: now,
			Needs: inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"owners"}, ApprovalExpires: hours(1)},
		}}
	}
	fourEyes := func(requester signed.Signer) func(*policy.Standpoint) {
		return func(s *policy.Standpoint) { s.Gate.Needs.FourEyes, s.Requester = true, requester }
	}
	cases := map[string]struct {
		proof  *policy.Proof
		change func(*policy.Standpoint)
		want   policy.VerdictReason
	}{
		"an approval by one of the group is taken":                 {proof(nil), nil, policy.Accepted},
		"a signature that does not hold is not taken":              {proof(func(p *policy.Proof) { p.Problem = "forged" }), nil, policy.SignatureBad},
		"one of another group is not taken":                        {proof(func(p *policy.Proof) { p.Groups = []string{"guests"} }), nil, policy.SignatureNeeded},
		"one for another namespace is not taken":                   {proof(func(p *policy.Proof) { p.Request.Namespace = "staging" }), nil, policy.OtherRotation},
		"one for another workflow is not taken":                    {proof(func(p *policy.Proof) { p.Request.Workflow = "rotation/else" }), nil, policy.OtherRotation},
		"one for another run, such as before a reset, is not":      {proof(func(p *policy.Proof) { p.Request.Run = "run-0" }), nil, policy.OtherRun},
		"one for another rotation is not taken":                    {proof(func(p *policy.Proof) { p.Request.Rotation = "earlier" }), nil, policy.OtherRotation},
		"one for another gate is not taken":                        {proof(func(p *policy.Proof) { p.Request.Gate = inventory.GateSignoff }), nil, policy.NotOpen},
		"one for another retiring key is not taken":                {proof(func(p *policy.Proof) { p.Request.Retiring = "key-x" }), nil, policy.OtherRotation},
		"one for another incoming key is not taken":                {proof(func(p *policy.Proof) { p.Request.Incoming = "key-x" }), nil, policy.OtherRotation},
		"one of other evidence is not taken":                       {proof(func(p *policy.Proof) { p.Request.Evidence = "digest-0" }), nil, policy.OtherEvidence},
		"a rejection that was sent as an approval is not":          {proof(func(p *policy.Proof) { p.Request.Action = policy.Reject }), nil, policy.OtherAction},
		"one from the future is not taken":                         {proof(func(p *policy.Proof) { p.Request.SignedAt = now.Add(time.Hour) }), nil, policy.TooLate},
		"one that was signed too long ago is not taken":            {proof(nil), func(s *policy.Standpoint) { s.Now = now.Add(2 * time.Hour) }, policy.TooLate},
		"one that comes when no gate waits is not taken":           {proof(nil), func(s *policy.Standpoint) { s.Gate = nil }, policy.NotOpen},
		"with four eyes, that of who signed the spec is not taken": {proof(nil), fourEyes(signed.Signer{Name: "ann", Key: "another key of hers"}), policy.ByRequester},
		"nor is it under another name of the same key":             {proof(func(p *policy.Proof) { p.By.Key = "k" }), fourEyes(signed.Signer{Name: "ann at work", Key: "k"}), policy.ByRequester},
		"with four eyes, that of somebody else is taken":           {proof(nil), fourEyes(signed.Signer{Name: "bob", Key: "k"}), policy.Accepted},
		"where nobody signed the spec, nobody is left out":         {proof(nil), fourEyes(signed.Signer{}), policy.Accepted},
		"the same person does not count twice under another key":   {proof(nil), func(s *policy.Standpoint) { s.Gate.Approvals = []policy.Verdict{verified("ann", "m")} }, policy.AlreadyCounted},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := waiting()
			if c.change != nil {
				c.change(&s)
			}
			// What the unsigned part of the request claims counts for nothing.
			claim := policy.Request{By: "mallory", Gate: inventory.GateRevoke, Run: "run-1", Evidence: "digest-1", Signed: &signed.Envelope{Signature: "s"}}
			v := policy.Judge(policy.Approve, claim, c.proof, s)
			assert.Equal(t, c.want, v.Reason, v.Message)
			if name == "one from the future is not taken" {
				assert.Contains(t, v.Message, "ahead: set right the clock of whoever signed it")
			}
			assert.Equal(t, c.want == policy.Accepted, v.Accepted)
			assert.NotEqual(t, "mallory", v.By)
			if v.Accepted {
				assert.True(t, v.Verified)
				assert.Equal(t, "ann", v.By)
				assert.NotNil(t, v.Signed)
			}
		})
	}
	t.Run("when no gate waits a signed decision of this run hears what an unsigned one does", func(t *testing.T) {
		t.Parallel()
		s := waiting()
		s.Gate = nil
		unsigned := policy.Judge(policy.Approve, policy.Request{Gate: inventory.GateRevoke}, nil, s)
		for _, action := range []policy.Action{policy.Approve, policy.Reject} {
			p := proof(func(p *policy.Proof) { p.Request.Action, p.Request.Reason = action, "not now" })
			v := policy.Judge(action, policy.Request{Signed: &signed.Envelope{Signature: "s"}}, p, s)
			assert.Equal(t, policy.NotOpen, v.Reason)
			assert.Equal(t, unsigned.Message, v.Message)
			p.Request.Run = "run-0"
			v = policy.Judge(action, policy.Request{Signed: &signed.Envelope{Signature: "s"}}, p, s)
			assert.Equal(t, policy.OtherRun, v.Reason)
		}
		assert.Contains(t, unsigned.Message, "no gate waits now")
	})
	t.Run("a signed rollback of a disabled key is taken", func(t *testing.T) {
		t.Parallel()
		p := proof(func(p *policy.Proof) {
			p.Request.Action, p.Request.Gate, p.Request.Evidence, p.Request.Reason = policy.Rollback, "", "", "errors"
		})
		s := policy.Standpoint{Now: now, Here: here, Disabled: true, Revoke: &waiting().Gate.Needs}
		v := policy.Judge(policy.Rollback, policy.Request{Signed: &signed.Envelope{}}, p, s)
		assert.True(t, v.Accepted, v.Message)
		p.Groups = []string{"guests"}
		assert.Equal(t, policy.SignatureNeeded, policy.Judge(policy.Rollback, policy.Request{Signed: &signed.Envelope{}}, p, s).Reason)
	})
}

func verified(by, nonce string) policy.Verdict {
	v := approval(by, now)
	v.ID, v.Verified, v.Groups = nonce, true, []string{"owners"}
	return v
}

func TestAGateThatWantsSignaturesCountsNothingElse(t *testing.T) {
	t.Parallel()
	g := policy.OpenGate{Needs: inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"owners"}}}
	g.Approvals = []policy.Verdict{approval("ann", now)}
	assert.False(t, g.Passed(now))
	stranger := verified("bob", "n")
	stranger.Groups = []string{"guests"}
	g.Approvals = append(g.Approvals, stranger)
	assert.False(t, g.Passed(now))
	g.Approvals = append(g.Approvals, verified("ann", "n"))
	assert.True(t, g.Passed(now))
}

func TestBindsIsWhatAnActivityCounts(t *testing.T) {
	t.Parallel()
	place := here
	place.Gate = inventory.GateRevoke
	v, why := proof(nil).Binds(place, now)
	assert.Empty(t, why)
	assert.Equal(t, "n", v.ID)
	assert.True(t, v.Verified && v.Accepted)
	for name, change := range map[string]func(*policy.Proof){
		"nothing proved":    func(p *policy.Proof) { p.Problem = "forged" },
		"a rejection":       func(p *policy.Proof) { p.Request.Action = policy.Reject },
		"another run":       func(p *policy.Proof) { p.Request.Run = "run-0" },
		"another pair":      func(p *policy.Proof) { p.Request.Incoming = "key-x" },
		"the signoff gate":  func(p *policy.Proof) { p.Request.Gate = inventory.GateSignoff },
		"another namespace": func(p *policy.Proof) { p.Request.Namespace = "x" },
		"the future":        func(p *policy.Proof) { p.Request.SignedAt = now.Add(time.Hour) },
	} {
		_, why := proof(change).Binds(place, now)
		assert.NotEmpty(t, why, name)
	}
}

// Where the clocks of two machines decide, they are named as why, with which one to set right.
func TestAnOldSpecMayBeOneOfAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	f := before()
	f.Metadata.Generation = 101
	plan := policy.Make(spec(credential()), f, noPulls, anyOnly)
	require.NotEmpty(t, plan.Refusals)
	assert.Contains(t, plan.Refusals[0].Message, "If this one is newer, the clock of who signed it is behind: set it right")
}

func TestRequestsThatAreNotRead(t *testing.T) {
	t.Parallel()
	good, err := json.Marshal(proof(nil).Request)
	require.NoError(t, err)
	_, err = policy.ParseRequest(good)
	require.NoError(t, err)
	for name, change := range map[string]func(map[string]any){
		"another schema":             func(m map[string]any) { m["schema"] = "keyturn/spec/v1" },
		"no nonce":                   func(m map[string]any) { delete(m, "nonce") },
		"no time":                    func(m map[string]any) { delete(m, "signedAt") },
		"a field that nobody knows":  func(m map[string]any) { m["sudo"] = true },
		"a nonce that is an article": func(m map[string]any) { m["nonce"] = string(make([]byte, 65)) },
	} {
		var m map[string]any
		require.NoError(t, json.Unmarshal(good, &m))
		change(m)
		bad, err := json.Marshal(m)
		require.NoError(t, err)
		_, err = policy.ParseRequest(bad)
		assert.Error(t, err, name)
	}
}

func FuzzParseRequest(f *testing.F) {
	good, err := json.Marshal(proof(nil).Request)
	require.NoError(f, err)
	f.Add(good)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := policy.ParseRequest(body)
		if err != nil {
			return
		}
		require.NotEmpty(t, r.Nonce)
		again, err := json.Marshal(r)
		require.NoError(t, err)
		same, err := policy.ParseRequest(again)
		require.NoError(t, err)
		require.True(t, r.SignedAt.Equal(same.SignedAt))
		same.SignedAt = r.SignedAt
		require.Equal(t, r, same)
	})
}

// What anybody may send to a rotation: nothing unsigned opens a gate that wants signatures, and no verdict is
// longer than what a person may say.
func FuzzJudge(f *testing.F) {
	f.Add([]byte(`{"gate":"revoke","by":"ann"}`), "approve")
	f.Add([]byte(`{"by":"ann","extension":"2h","reason":"x"}`), "extend")
	f.Add([]byte(`{"id":"\u0000","gate":"\u001b[2J","run":"r","evidence":"e"}`), "reject")
	f.Add([]byte(`{"signed":{"body":{},"signature":"x"}}`), "rollback")
	gate := policy.OpenGate{Gate: inventory.GateRevoke, Run: "run", Evidence: "digest", Needs: inventory.Approval{Count: 1, Trust: inventory.TrustSigned, From: []string{"owners"}}}
	f.Fuzz(func(t *testing.T, body []byte, action string) {
		var r policy.Request
		if json.Unmarshal(body, &r) != nil || len(action) > 100 {
			return
		}
		v := policy.Judge(policy.Action(action), r, nil, policy.Standpoint{Now: now, Gate: &gate, InOverlap: true, OverlapEnds: now})
		require.False(t, v.Accepted && v.Action == policy.Approve, "nobody signed it")
		require.False(t, v.Verified)
		v.Action = ""
		text, err := json.Marshal(v)
		require.NoError(t, err)
		require.Less(t, len(text), 8*6*policy.MaxText)
	})
}

// What a rogue workflow could ask for, each with the facts against it.
func TestTurnsThatAreNoWayBack(t *testing.T) {
	t.Parallel()
	cred := credential()
	f := promoted()
	assert.True(t, policy.MayRestore(cred, f, retiring, incoming).OK)
	assert.Equal(t, policy.CurrentMoved, policy.MayRestore(cred, f, incoming, retiring).Reason, "the retiring key posed as the incoming one, to be discarded then")
	assert.Equal(t, policy.NotOurs, policy.MayRestore(cred, f, retiring, key.Ref{KeyID: "stranger"}).Reason)
	f.Keys[0].State = key.Disabled
	assert.Equal(t, policy.IncomingNotLive, policy.MayRestore(cred, f, retiring, incoming).Reason, "CURRENT would be a dead key")
	assert.True(t, policy.MayEnable(cred, f, retiring).OK)
	f.Metadata.Keys[1].KeptAt = now
	assert.Equal(t, policy.WayBackOver, policy.MayEnable(cred, f, retiring).Reason, "somebody else disabled it")
	f.Metadata.Keys[0].DisablingAt = now
	assert.True(t, policy.MayEnable(cred, f, retiring).OK, "keyturn disabled it, and somebody misses it")
	assert.False(t, policy.MayDeliver(cred, f, retiring).OK, "which leads nobody back to it")

	f = promoted()
	f.Metadata.Keys[1].PromotedAt = time.Time{}
	assert.True(t, policy.MayRestore(cred, f, retiring, incoming).OK, "the process that promoted died before it could say so")
	assert.False(t, policy.MayRestore(cred, f, incoming, retiring).OK)
	f.Metadata.Keys = f.Metadata.Keys[1:]
	assert.True(t, policy.MayRestore(cred, f, retiring, incoming).OK, "an adopted key has no record yet")

	f = promoted()
	f.Keys = append(f.Keys, key.Info{KeyID: "stranger", State: key.Disabled}, key.Info{KeyID: "other", State: key.Active})
	assert.Equal(t, policy.NotOurs, policy.MayEnable(cred, f, key.Ref{KeyID: "stranger"}).Reason)
	assert.Equal(t, policy.NotOurs, policy.MayDeliver(cred, f, key.Ref{KeyID: "other"}).Reason)
	assert.True(t, policy.MayDeliver(cred, f, retiring).OK)
	f.Keys[0].ExpiresAt = now
	assert.Equal(t, policy.IncomingNotLive, policy.MayDeliver(cred, f, retiring).Reason)
}

func TestOfANamedKeyOnlyItsIDIsBelieved(t *testing.T) {
	t.Parallel()
	f := promoted()
	lie := key.Ref{Principal: "admin", KeyID: "key-new", StoreVersion: "v1", Fingerprint: "fp:old"}
	assert.Equal(t, incoming, f.Named(lie))
	dead := key.Ref{Principal: "payments-api", KeyID: "key-dead", StoreVersion: "v0", Fingerprint: "fp:old"}
	assert.Equal(t, key.Ref{Principal: "payments-api", KeyID: "key-dead"}, f.Named(dead), "no such version")
	f.Versions = append(f.Versions, stored("v0", "", "fp:dead", key.Previous))
	assert.Equal(t, key.Ref{Principal: "payments-api", KeyID: "key-dead", StoreVersion: "v0", Fingerprint: "fp:dead"}, f.Named(dead))
	dead.StoreVersion = "v2"
	assert.Empty(t, f.Named(dead).StoreVersion, "a version that holds a live key is not the dead one's")
}

// A request that somebody wrote by hand says one thing to whoever reads it.
func TestARequestByHandIsReadStrictly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, why string }{
		"as its example says":        {policy.Example(policy.Reject), ""},
		"a name that is misspelt":    {`{"gat":"revoke"}`, `unknown field "gat"`},
		"a name that is there twice": {`{"gate":"revoke","by":"ann","by":"bob"}`, "by is given twice; keep one of the two"},
		"a name in other case":       {`{"gate":"revoke","By":"ann"}`, "By is not a known field; did you mean by?"},
		"no object":                  {`42`, "it is no JSON object"},
		"half an object":             {`{"gate":"revoke",`, "the JSON ends in the middle of something"},
		"nothing":                    {``, "it is no JSON object"},
		"two objects":                {`{"by":"ann"} {"by":"bob"}`, "there is more than one value"},
		"another type":               {`{"by":1}`, "cannot unmarshal number"},
		"a signed one":               {`{"signed":{"body":{"a":1},"signature":"s"}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.ReadRequest([]byte(c.text))
			if c.why == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, c.why)
			assert.NotContains(t, fmt.Sprint(err), "json: ")
		})
	}
}
