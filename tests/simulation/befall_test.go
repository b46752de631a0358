package simulation

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

func (p *play) outages(name string, settings memory.InstanceSettings) {
	trouble := errors.New("no route to host")
	for _, o := range p.script.outages {
		if o.instance != name {
			continue
		}
		ill := settings
		switch o.what {
		case "unreachable":
			ill.Unreachable = trouble
		case "unhealthy":
			ill.Unhealthy = trouble
		default:
			ill.Mute = trouble
		}
		p.env.RegisterDelayedCallback(func() { p.world.SetInstance(name, ill) }, o.from)
		p.env.RegisterDelayedCallback(func() { p.world.SetInstance(name, settings) }, o.from+o.long)
	}
}

// attendant sees each attempt of an activity: it ends what was cancelled, as the server would, and plants.
type attendant struct {
	interceptor.WorkerInterceptorBase
	play *play
}

func (a *attendant) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &attempt{play: a.play}
	i.Next = next
	return i
}

type attempt struct {
	interceptor.ActivityInboundInterceptorBase
	play *play
}

func (a *attempt) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	p, info := a.play, activity.GetInfo(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !p.begin(info, cancel) {
		return nil, temporal.NewNonRetryableApplicationError(info.ActivityType.Name+" is cancelled", "cancelled", nil)
	}
	p.running.Add(1)
	defer p.running.Add(-1)
	p.keepTime()
	call := func(args []any) (any, error) {
		return a.Next.ExecuteActivity(ctx, &interceptor.ExecuteActivityInput{Args: args})
	}
	if p.plant.activity != nil {
		return p.plant.activity(info.ActivityType.Name, in.Args, call)
	}
	return call(in.Args)
}

// begin notes an attempt; false for one of an activity that was cancelled.
func (p *play) begin(info activity.Info, cancel context.CancelFunc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.canceled[info.ActivityID]; p.over.Load() || ok && known == nil {
		return false
	}
	p.canceled[info.ActivityID] = cancel
	name := info.ActivityType.Name
	p.attempts[name] = max(p.attempts[name], info.Attempt)
	if info.Attempt == 2 {
		p.befell["second attempt of "+name] = true
	}
	return true
}

func (p *play) cancel(activityID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cancel := p.canceled[activityID]; cancel != nil {
		cancel()
	}
	p.canceled[activityID] = nil
}

// reached notes that a state was reached.
func (p *play) reached(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.befell[what] = true
}

// befall is what the world asks around each call: whether something befalls it.
func (p *play) befall(ctx context.Context, c memory.Call) error {
	if !activity.IsActivity(ctx) {
		return nil
	}
	name := activity.GetInfo(ctx).ActivityType.Name
	if c.Phase == memory.After && (c.Op == memory.OpDisable || c.Op == memory.OpDestroy || c.Op == memory.OpPromote || c.Op == memory.OpEnable) {
		p.requests()
	}
	if c.Phase == memory.Before && c.Op == memory.OpPromote && p.script.overtaken && !p.intruded.Swap(true) {
		p.world.AddVersion(principal, theirs())
	}
	if p.script.unpurged && c.Op == memory.OpPurge && (name == "Record" || name == "Discard") {
		return errors.New("it purges nothing")
	}
	f, ok := p.fault(name, c)
	if !ok {
		return nil
	}
	p.reached(string(f.kind) + " " + string(f.op) + " in " + name)
	switch f.kind {
	case dieBefore, dieAfter:
		panic("the process dies")
	case loseReply:
		return memory.ErrReplyLost
	case throttle:
		return providers.ErrThrottled
	case fail:
		return errors.New("connection reset")
	}
	return p.stall(ctx)
}

// theirs is a bundle that is no key of the principal.
func theirs() secret.Bundle {
	return secret.NewBundle(map[string]secret.Value{secret.ValueField: secret.New([]byte("something that another owner put there"))})
}

// stall is a peer that answers nothing, until the activity is nearly timed out, or for 90 seconds. The environment does not
// try again after a time-out, as the server would, and takes the attempts of an activity together.
func (p *play) stall(ctx context.Context) error {
	info, wait := activity.GetInfo(ctx), 90*time.Second
	p.mu.Lock()
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end)-time.Second-p.stalled[info.ActivityID])
	}
	if info.HeartbeatTimeout > 0 {
		wait = min(wait, info.HeartbeatTimeout-time.Second)
	}
	p.stalled[info.ActivityID] += wait
	p.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errors.New("no answer")
	}
}

// fault is what befalls a call. Calls are counted for each activity, operation and instance.
func (p *play) fault(activityName string, c memory.Call) (fault, bool) {
	about := activityName + " " + string(c.Op) + " " + c.Instance
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Phase == memory.Before {
		p.calls[about]++
	}
	for _, f := range p.script.faults {
		after := f.kind == dieAfter || f.kind == loseReply
		if f.activity == activityName && f.op == c.Op && f.instance == c.Instance && f.call == p.calls[about] && after == (c.Phase == memory.After) {
			return f, true
		}
	}
	return fault{}, false
}
