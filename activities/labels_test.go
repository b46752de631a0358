package activities_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// relabelled is a store whose labels are where somebody else put them.
type relabelled struct {
	providers.Store
	change func([]key.Version)
}

func (s relabelled) Versions(ctx context.Context) ([]key.Version, error) {
	list, err := s.Store.Versions(ctx)
	s.change(list)
	return list, err
}

func newRelabelledCase(t *testing.T, change func([]key.Version)) *crashCase {
	t.Helper()
	return newCaseOf(t, caseInventory, fleet, func(d *providers.Descriptor) {
		honest := d.Store
		d.Store = &providers.Maker[providers.Store]{Config: honest.Config, Open: func(e providers.Environment, account, config any) (providers.Store, error) {
			s, err := honest.Open(e, account, config)
			return relabelled{s, change}, err
		}}
	})
}

// AWS leaves AWSPENDING on a version that became CURRENT, until it is taken away.
func TestAVersionThatIsCurrentAndPendingIsNoDebt(t *testing.T) {
	t.Parallel()
	c := newRelabelledCase(t, func(list []key.Version) {
		staged := slices.ContainsFunc(list, func(v key.Version) bool { return v.Has(key.Pending) })
		for i := range list {
			if !staged && list[i].Has(key.Current) {
				list[i].Labels = append(list[i].Labels, key.Pending)
			}
		}
	})
	for _, step := range []string{"Issue", "DeliverWave", "Promote", "Disable", "Destroy"} {
		c.run(step)
	}
	var recorded activities.Recorded
	c.execute("Record", activities.RecordInput{Rotation: c.subject(), Outcome: "completed"}, &recorded)
	assert.Equal(t, "completed", recorded.Outcome)
	assert.Empty(t, recorded.Debt)
}
