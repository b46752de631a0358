package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestARunIsCutOffWhoseEndNobodyRecorded(t *testing.T) {
	t.Parallel()
	mine, other := &key.LastRotation{ID: "first"}, &key.LastRotation{ID: "before"}
	for name, x := range map[string]struct {
		status policy.RunStatus
		last   *key.LastRotation
		cutOff bool
	}{
		"terminated before its end":               {policy.RunTerminated, other, true},
		"terminated before the first end of all":  {policy.RunTerminated, nil, true},
		"terminated when its end was recorded":    {policy.RunTerminated, mine, false},
		"timed out":                               {policy.RunTimedOut, other, true},
		"cancelled":                               {policy.RunCanceled, other, true},
		"failed, and could not write":             {policy.RunFailed, other, false},
		"failed, as is on record":                 {policy.RunFailed, mine, false},
		"not one that ended as it should":         {policy.RunCompleted, other, false},
		"not one that runs":                       {policy.RunRunning, other, false},
		"not one of which Temporal does not know": {"", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := policy.Run{ID: "last", Rotation: "first", Status: x.status, Running: x.status == policy.RunRunning}
			assert.Equal(t, x.cutOff, r.CutOff(x.last))
		})
	}
}
