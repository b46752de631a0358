package workflows_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/workflows"
)

// What ends exposed keys goes before all that is done afterwards, and both go before routine work. The test environment knows no
// priorities.
func TestWhatEndsAnExposedKeyGoesFirst(t *testing.T) {
	t.Parallel()
	const usual = 0 // Temporal's own, which is 3
	ends, afterwards, yields := workflows.PrioritiesIn(workflows.UrgentPriority)
	assert.Equal(t, []int{workflows.UrgentPriority, workflows.SoonPriority, 4}, []int{ends, afterwards, yields})
	ends, afterwards, yields = workflows.PrioritiesIn(usual)
	assert.Equal(t, []int{usual, usual, 4}, []int{ends, afterwards, yields})
}
