package workflows_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// stolen has a stranger use the key that is exposed.
func (c *crisis) stolen() {
	c.t.Helper()
	b, _ := c.world.Held("canary")
	require.NoError(c.t, c.world.Use(b, "192.0.2.1"))
}

// The stranger's use comes first, whatever consumers did.
func TestAnEmergencyTellsWhoUsedTheKey(t *testing.T) {
	t.Parallel()
	c := newCrisis(t)
	c.world.SetOutliving("Sessions outlive it.", `{"Effect":"Deny"}`)
	c.world.SetPrincipal("payments-api", memory.Strict()) // which tells of uses at once
	c.traffic(time.Hour)
	c.stolen()
	e := c.declared([]string{"key-old"})
	e.ExposedSince = c.env.Now().Add(-time.Hour)
	report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: e})
	require.NoError(t, err)
	assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
	require.NotNil(t, report.Misuse)
	m := *report.Misuse
	require.Greater(t, len(m.Uses), 1)
	assert.Equal(t, policy.UsedByStranger, m.Uses[0].Kind)
	assert.Equal(t, "192.0.2.1", m.Uses[0].Source)
	assert.Equal(t, 1, m.Unusual)
	assert.Equal(t, policy.UsedAsExpected, m.Uses[1].Kind, "consumers are expected")
	assert.Equal(t, "Sessions outlive it.", m.Outlives)
	assert.Equal(t, `{"Effect":"Deny"}`, m.Deny)
	assert.Equal(t, e.ExposedSince.UTC(), m.Since.UTC())
	assert.Contains(t, moments(report), "somebody used the exposed keys as nobody should: 1 unusual uses")
	assert.Contains(t, c.trailText(), "misuse.reviewed")
}

// moments is what a report's timeline says.
func moments(r workflows.Report) string {
	var lines []string
	for _, m := range r.Timeline {
		lines = append(lines, m.What)
	}
	return strings.Join(lines, "\n")
}

func (c *crisis) trailText() string {
	var types []string
	for _, t := range c.trail() {
		types = append(types, string(t))
	}
	return strings.Join(types, " ")
}

// A source that fails, or never answers, delays no containment, and fails nothing.
func TestASourceThatFailsDelaysNothing(t *testing.T) {
	t.Parallel()
	for name, befall := range map[string]func(*memory.World){
		"it is denied":      func(w *memory.World) { w.Fail(memory.OpUses, providers.ErrDenied, 100) },
		"it is broken":      func(w *memory.World) { w.Fail(memory.OpUses, errors.New("connection reset"), 100) },
		"it is for a while": func(w *memory.World) { w.Throttle(memory.OpUses, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrisis(t)
			befall(c.world)
			c.traffic(time.Hour)
			report, err := c.emergency(workflows.RotationInput{Spec: c.spec(), Emergency: c.declared([]string{"key-old"})})
			require.NoError(t, err)
			assert.Equal(t, workflows.Completed, report.Outcome, report.Message)
			require.Len(t, report.Contained, 1)
			assert.Less(t, report.Contained[0].At.Sub(c.began), 5*time.Minute)
			require.NotNil(t, report.Misuse)
			silent := slices.ContainsFunc(report.Misuse.Unseen, func(s string) bool { return strings.HasPrefix(s, "the issuer did not tell who used key-old") })
			assert.Equal(t, name != "it is for a while", silent, "%v", report.Misuse.Unseen)
		})
	}
}

// An incident may be of hundreds of credentials, and its status is one value.
func TestAnIncidentShowsTheMostAlarmingUsesFirst(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	use := func(kind policy.UseKind, from string) policy.JudgedUse {
		return policy.JudgedUse{Use: key.Use{KeyID: "k", Source: from, Action: "read", First: at, Last: at, Count: 2}, Kind: kind}
	}
	s := workflows.IncidentStatus{Incident: "incident/leak", Credentials: []workflows.IncidentMember{
		{Credential: "a", Misuse: &policy.Misuse{Uses: []policy.JudgedUse{use(policy.UsedAsExpected, "10.0.0.7")}, Unseen: []string{"late"}, Outlives: "Sessions outlive it.", Deny: "{1}", Omitted: 3}},
		{Credential: "b", Misuse: &policy.Misuse{Uses: []policy.JudgedUse{use(policy.TriedDead, "192.0.2.1")}, Unseen: []string{"late"}, Outlives: "Sessions outlive it.", Deny: "{2}"}},
		{Credential: "c", Misuse: &policy.Misuse{}},
		{Credential: "d"},
	}}
	assert.Equal(t, []string{
		"b: tried after its end: k from 192.0.2.1 read, 2 times, 2026-03-01T12:00:00Z",
		"a: expected: k from 10.0.0.7 read, 2 times, 2026-03-01T12:00:00Z",
		"a: and 3 uses more, of which its own report, or its sources, have the rest",
		"c: no use is known",
		"Not known: late",
		"Sessions outlive it.",
		"{1}",
	}, s.MisuseLines())
	assert.Contains(t, s.Markdown(), "Who used the exposed keys, unusual uses first")
}

// The page has what is owed, with texts from outside as texts, and commands that can be copied as they stand.
func TestThePageOfAnIncidentHasItsDebt(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := workflows.IncidentStatus{
		Incident: "incident/two--dashes", FrozenUntil: at,
		Credentials: []workflows.IncidentMember{{Credential: "a", Debt: []key.Debt{{Kind: "copies-left", About: "<b>*web*", Since: at}}}, {Credential: "b"}},
	}
	page := s.Markdown()
	assert.Contains(t, page, "\n- a\\: copies-left &lt;b&gt;\\*web\\*, since 2026-03-01T12\\:00\\:00Z\n")
	assert.Contains(t, page, "`keyturn incident unfreeze incident/two--dashes`")
	assert.NotContains(t, workflows.IncidentStatus{}.Markdown(), "Still owed")

	for range 300 {
		s.Credentials[1].Debt = append(s.Credentials[1].Debt, key.Debt{Kind: "copies-left", About: "x", Since: at})
	}
	assert.Contains(t, s.Markdown(), "and 201 more, see `keyturn incident show incident/two--dashes`")
}

// However many credentials an incident has, and whatever is known of each, its status stays far below what a history takes.
func TestWhatAnIncidentHasOfReviewsIsBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 400)
	found := policy.Misuse{Outlives: long, Deny: long}
	for range policy.MostUses {
		found.Uses = append(found.Uses, policy.JudgedUse{Use: key.Use{KeyID: "k", Source: strings.Repeat("s", 128), Action: strings.Repeat("a", 128), Count: 2}, Kind: policy.UsedByStranger})
		found.Unseen = append(found.Unseen, long)
	}
	members := workflows.MembersWith(2000, found)
	text, err := json.Marshal(members)
	require.NoError(t, err)
	assert.Less(t, len(text), 1<<20)
	assert.Len(t, members[0].Misuse.Uses, 5)
	assert.Equal(t, 15*2, members[0].Misuse.Omitted)
	assert.Empty(t, members[1999].Misuse.Uses)
	assert.Equal(t, 20*2, members[1999].Misuse.Omitted)
}
