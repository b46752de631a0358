package activities_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/providers"
)

// relabelled is a store whose versions are what somebody else made of them.
type relabelled struct {
	providers.Store
	change func([]key.Version) []key.Version
}

func (s relabelled) Versions(ctx context.Context) ([]key.Version, error) {
	list, err := s.Store.Versions(ctx)
	return s.change(list), err
}

// newRelabelledCase has a store that somebody else changes whenever keyturn has nothing in PENDING.
func newRelabelledCase(t *testing.T, change func([]key.Version) []key.Version) *crashCase {
	t.Helper()
	unstaged := func(list []key.Version) []key.Version {
		if slices.ContainsFunc(list, func(v key.Version) bool { return v.Has(key.Pending) }) {
			return list
		}
		return change(list)
	}
	return newCaseOf(t, caseInventory, fleet, func(d *providers.Descriptor) {
		honest := d.Store
		d.Store = &providers.Maker[providers.Store]{Config: honest.Config, Open: func(e providers.Environment, account, config any) (providers.Store, error) {
			s, err := honest.Open(e, account, config)
			return relabelled{s, unstaged}, err
		}}
	})
}

// AWS leaves AWSPENDING on a version that became CURRENT, until it is taken away.
func TestAVersionThatIsCurrentAndPendingIsNoDebt(t *testing.T) {
	t.Parallel()
	c := newRelabelledCase(t, func(list []key.Version) []key.Version {
		for i := range list {
			if list[i].Has(key.Current) {
				list[i].Labels = append(list[i].Labels, key.Pending)
			}
		}
		return list
	})
	for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable", "Destroy"} {
		c.run(step)
	}
	var recorded activities.Recorded
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, &recorded)
	assert.Equal(t, "completed", recorded.Outcome)
	assert.Empty(t, recorded.Debt)
}

// Whoever put a label on a version, and no value into it, staged nothing, even by the token of the mint.
func TestAPendingVersionWithoutAValueIsNotStaged(t *testing.T) {
	t.Parallel()
	c := newRelabelledCase(t, func(list []key.Version) []key.Version {
		return append(list, key.Version{ID: "hollow", Token: policy.Token("first-run", 1), Labels: []key.Label{key.Pending}, CreatedAt: list[0].CreatedAt})
	})
	var swept activities.Swept
	c.execute("Sweep", activities.SweepInput{Entries: []activities.Entry{{Named: c.named()}}}, &swept)
	at := slices.IndexFunc(swept.Findings, func(f policy.Finding) bool { return f.Kind == policy.FoundPendingLeft })
	require.GreaterOrEqual(t, at, 0, "%v", swept.Findings)
	assert.Contains(t, swept.Findings[at].Message, "version hollow of the store is PENDING without a value")

	c.run("Issue")
	assert.NotEqual(t, "hollow", c.incoming.StoreVersion)
	assert.Equal(t, []key.Label{key.Pending}, c.versions()[c.incoming.StoreVersion])
	c.run("DeliverWave")
	c.run("Promote")
}
