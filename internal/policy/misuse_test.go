package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestUsesAreJudgedByWhatIsExpected(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	dead := since.Add(time.Hour)
	before, after, later := since.Add(-time.Hour), since.Add(time.Minute), dead.Add(2*time.Minute)
	c := inventory.Credential{Name: "payments-api", Consumers: []inventory.Consumer{{Name: "checkout", Instances: []string{"a", "b"}}}}
	use := func(source, action string, first, last time.Time, refused string) key.Use {
		return key.Use{KeyID: "key-old", Source: source, Action: action, First: first, Last: last, Count: 3, Error: refused}
	}
	usual := use("10.0.0.7", "read", before, after, "")
	for name, x := range map[string]struct {
		use    key.Use
		others []key.Use
		blind  bool // nobody said when the key was exposed
		alive  bool // it was not seen dead
		want   policy.UseKind
	}{
		"it was accepted after its end, from a familiar source":  {use: use("10.0.0.7", "read", before, later, ""), others: []key.Use{usual}, want: policy.UsedDead},
		"it was accepted after its end, by an instance":          {use: use("checkout/a", "read", before, later, ""), want: policy.UsedDead},
		"it was tried after its end":                             {use: use("192.0.2.1", "read", later, later, "refused"), want: policy.TriedDead},
		"it was tried after its end, by an instance":             {use: use("checkout/a", "read", before, later, "refused"), want: policy.TriedByConsumer},
		"it was used as it ended, by a clock that is ahead":      {use: use("10.0.0.7", "read", before, dead.Add(2*time.Second), ""), others: []key.Use{usual}, want: policy.UsedAsExpected},
		"an end that nobody saw is none":                         {use: use("10.0.0.7", "read", before, later, ""), alive: true, want: policy.UsedAsExpected},
		"from where nobody used it before":                       {use: use("192.0.2.1", "read", after, after, ""), others: []key.Use{usual}, want: policy.UsedByStranger},
		"from where nobody used it before, and was refused":      {use: use("192.0.2.1", "read", after, after, "denied"), others: []key.Use{usual}, want: policy.UsedByStranger},
		"who was only refused before is no familiar source":      {use: use("192.0.2.1", "read", after, after, ""), others: []key.Use{use("192.0.2.1", "write", before, before, "denied")}, want: policy.UsedByStranger},
		"from nowhere that is known":                             {use: use("", "read", after, after, ""), others: []key.Use{use("", "read", before, before, "")}, want: policy.UsedByStranger},
		"from a familiar source, for something new":              {use: use("10.0.0.7", "create-user", after, after, ""), others: []key.Use{usual}, want: policy.UsedOtherwise},
		"from a familiar source, as before":                      {use: use("10.0.0.7", "read", after, after, ""), others: []key.Use{usual}, want: policy.UsedAsExpected},
		"by an instance of a consumer":                           {use: use("a", "read", after, after, ""), want: policy.UsedAsExpected},
		"before the time of exposure":                            {use: use("192.0.2.1", "read", before, before, ""), want: policy.UsedAsExpected},
		"nobody said when it was exposed":                        {use: use("192.0.2.1", "read", after, after, ""), blind: true, want: policy.UsedByAnybody},
		"nobody said when it was exposed, and it is an instance": {use: use("checkout", "read", after, after, ""), blind: true, want: policy.UsedAsExpected},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := policy.Told{Since: since, Dead: map[string]time.Time{"key-old": dead}, Uses: []key.Uses{{Teller: "log", List: append([]key.Use{x.use}, x.others...)}}}
			if x.blind {
				told.Since = time.Time{}
			}
			if x.alive {
				told.Dead = nil
			}
			m := policy.ReviewUses(c, told)
			for _, u := range m.Uses {
				if u.Use == x.use {
					assert.Equal(t, x.want, u.Kind)
					return
				}
			}
			assert.Fail(t, "the use is not there")
		})
	}
}

func TestAReviewSaysTheMostAlarmingFirstAndIsBounded(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	told := policy.Told{Since: since, Dead: map[string]time.Time{"k": since.Add(time.Hour)}, Unseen: []string{"a log is missing"}}
	usual := key.Uses{Teller: "log", Unseen: []string{"late"}, Omitted: 5, Outlives: "sessions", Deny: "{}"}
	for n := range 30 {
		usual.List = append(usual.List, key.Use{KeyID: "k", Source: fmt.Sprint("10.0.0.", n), Action: "read", First: since.Add(-time.Hour), Last: since.Add(time.Minute), Count: 2})
	}
	strange := key.Uses{Teller: "issuer", Unseen: []string{"late"}, List: []key.Use{
		{KeyID: "k", Source: "192.0.2.1", First: since, Last: since.Add(time.Minute), Count: 1},
		{KeyID: "k", Source: "192.0.2.2", First: since, Last: since.Add(2 * time.Hour), Count: 1, Error: "refused"},
		{KeyID: "k", Source: "192.0.2.3", First: since, Last: since.Add(2 * time.Hour), Count: 1},
	}}
	told.Uses = []key.Uses{usual, strange}
	m := policy.ReviewUses(inventory.Credential{}, told)
	assert.Len(t, m.Uses, policy.MostUses)
	assert.Equal(t, []string{"192.0.2.3", "192.0.2.2", "192.0.2.1"}, []string{m.Uses[0].Source, m.Uses[1].Source, m.Uses[2].Source})
	assert.Equal(t, 3, m.Unusual)
	assert.Equal(t, 5+13*2, m.Omitted, "13 groups are not shown")
	assert.Equal(t, []string{"issuer", "log"}, m.Tellers)
	assert.Equal(t, []string{"late", "a log is missing"}, m.Unseen)
	assert.Equal(t, "sessions", m.Outlives)
	assert.Equal(t, "{}", m.Deny)
	none := policy.ReviewUses(inventory.Credential{}, policy.Told{Since: since})
	assert.Contains(t, none.Unseen[0], "No use is known from before 2026-03-01T12:00:00Z")
}
