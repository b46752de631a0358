package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

func TestBudgetHolds(t *testing.T) {
	t.Parallel()
	budget := inventory.ErrorBudget{Ratio: 0.01, Window: inventory.Duration(5 * time.Minute), MinTotal: 50}
	read := func(errors, total float64, after time.Duration) key.Sample {
		return key.Sample{Errors: errors, Total: total, At: now.Add(after)}
	}
	over := func(errors, total float64) key.Sample {
		return key.Sample{Errors: errors, Total: total, At: now, Window: 5 * time.Minute}
	}
	cases := map[string]struct {
		signals []policy.Readings
		want    policy.Reason
	}{
		"no reading is no data":                             {nil, policy.BudgetNoData},
		"a baseline alone is no data":                       {[]policy.Readings{{read(90, 100, 0)}}, policy.BudgetNoData},
		"errors before the baseline do not count":           {[]policy.Readings{{read(90, 100, 0), read(90, 300, time.Minute)}}, policy.Allowed},
		"errors since the baseline do":                      {[]policy.Readings{{read(0, 100, 0), read(3, 300, time.Minute)}}, policy.BudgetBreached},
		"at the ratio the budget holds":                     {[]policy.Readings{{read(0, 0, 0), read(1, 100, time.Minute)}}, policy.Allowed},
		"too little traffic says nothing":                   {[]policy.Readings{{read(0, 0, 0), read(49, 49, time.Minute)}}, policy.BudgetTooLittle},
		"signals are added up":                              {[]policy.Readings{{read(0, 0, 0), read(2, 40, time.Minute)}, {read(0, 0, 0), read(0, 40, time.Minute)}}, policy.BudgetBreached},
		"a source that counts its window needs no baseline": {[]policy.Readings{{over(30, 1000)}}, policy.BudgetBreached},
		"a counter that restarted counts from zero":         {[]policy.Readings{{read(0, 1000, 0), read(0, 20, time.Minute), read(5, 80, 2*time.Minute)}}, policy.BudgetBreached},
		"one signal without data does not hide the other":   {[]policy.Readings{nil, {read(0, 0, 0), read(50, 100, time.Minute)}}, policy.BudgetBreached},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := policy.BudgetHolds(budget, c.signals)
			assert.Equal(t, c.want, d.Reason, d.Message)
		})
	}
}

// However long a watch lasts, its readings stay few, the last is kept, and one reaches back to the begin
// of the window.
func TestReadingsAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		window := time.Duration(rapid.IntRange(1, 3600).Draw(t, "window")) * time.Second
		var r policy.Readings
		at, total := now, 0.0
		for range rapid.IntRange(1, 300).Draw(t, "samples") {
			at = at.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "gap")) * time.Second)
			total += float64(rapid.IntRange(0, 100).Draw(t, "traffic"))
			r = r.Add(key.Sample{Total: total, At: at}, window)
		}
		assert.LessOrEqual(t, len(r), 60)
		assert.InDelta(t, total, r[len(r)-1].Total, 0)
		if len(r) > 1 && r[0].At.Before(at.Add(-window)) {
			assert.True(t, len(r) == 2 || r[1].At.After(at.Add(-window)) || len(r) >= 59, "no more than one reading is older than the window")
		}
	})
}
