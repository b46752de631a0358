package workflows_test

import (
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"

	"github.com/keyturn/keyturn/workflows"
)

var everyCase = flag.Bool("every-case", false, "run all of many cases that are alike: make proof")

// thinned leaves out some of many cases that are alike: all but one in every so many, and most with the race detector.
type thinned struct{ every, n int }

func (c *thinned) out() bool {
	every := max(c.every, 1)
	switch {
	case raced:
		every = 8
	case *everyCase:
		every = 1
	}
	c.n++
	return (c.n-1)%every != 0
}

// long leaves a case to the run without the race detector: it takes a quarter of a minute with it, and does nothing at once that
// others do not do.
func long(t *testing.T) {
	t.Helper()
	if raced {
		t.Skip("too long with the race detector; the run without it plays it")
	}
}

// inbound stands between a workflow and Temporal; wrap stands before what the workflow asks for.
type inbound struct {
	interceptor.WorkflowInboundInterceptorBase
	wrap func(interceptor.WorkflowOutboundInterceptor) interceptor.WorkflowOutboundInterceptor
}

func (i *inbound) Init(out interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(i.wrap(out))
}

func between(next interceptor.WorkflowInboundInterceptor, wrap func(interceptor.WorkflowOutboundInterceptor) interceptor.WorkflowOutboundInterceptor) *inbound {
	return &inbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, wrap}
}

// timed has things happen to a run at times after its begin, all in the environment's own goroutine.
type timed struct {
	t   *testing.T
	env *testsuite.TestWorkflowEnvironment
	// meant counts what a case is about, fell what of it has happened.
	meant, fell int
}

// at makes something happen at a time after the begin.
func (e *timed) at(after time.Duration, do func()) { e.env.RegisterDelayedCallback(do, after) }

// in is at for what a case is about: the run must be at that place then, as where says it, and must not end before.
func (e *timed) in(place string, after time.Duration, do func()) {
	e.meant++
	e.at(after, func() {
		e.fell++
		assert.Equal(e.t, place, e.where(), "after %s", after)
		do()
	})
}

// every makes something happen again and again. Each time begins the next: the environment holds a thousand callbacks
// before it begins, and a run that ends early needs few.
func (e *timed) every(interval, until time.Duration, do func()) {
	var next func()
	next = func() {
		do()
		if until -= interval; until > 0 {
			e.at(interval, next)
		}
	}
	e.at(interval, next)
}

// allFell sees that all that was to happen did, once the run has ended.
func (e *timed) allFell() {
	e.t.Helper()
	assert.Equal(e.t, e.meant, e.fell, "the run ended before something that this case is about")
}

// status is what the run says of itself: nothing before its first step.
func (e *timed) status() (status workflows.Status) {
	e.t.Helper()
	if value, err := e.env.QueryWorkflow(workflows.StatusName); err == nil {
		assert.NoError(e.t, value.Get(&status))
	}
	return status
}

// where is the phase, and while waves are delivered to, which one and what becomes of it: "canary soaking".
func (e *timed) where() string {
	e.t.Helper()
	status := e.status()
	if status.Phase == workflows.PhaseDeliver {
		for _, w := range status.Waves {
			if w.State == "delivering" || w.State == "soaking" || w.State == "held" {
				return w.Name + " " + w.State
			}
		}
	}
	return string(status.Phase)
}
