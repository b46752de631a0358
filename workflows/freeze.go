package workflows

import (
	"cmp"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// How long a freeze of deployments lasts that nobody renews, how often it is renewed, and how often one is that a hook has not.
const (
	freezeLasts   = 30 * time.Minute
	freezeRenews  = 10 * time.Minute
	freezeRetries = 30 * time.Second
)

// freeze keeps others from deploying while the incident goes on, where the worker configuration has hooks for that. Nothing waits for it,
// and should this run end without its doing, the freeze does so by itself.
func (i *incidentRun) freeze(ctx workflow.Context) {
	defer i.freezing.Done()
	signals := workflow.GetSignalChannelWithOptions(ctx, UnfreezeName, workflow.SignalChannelOptions{Description: "Have deployments go on before the incident has ended; sent by keyturn incident unfreeze"})
	workflow.Go(ctx, func(ctx workflow.Context) {
		var asked Unfreeze
		i.receive(ctx, signals, &asked)
		i.Thaw = cmp.Or(asked.By, "somebody")
	})
	if i.Thaw != "" && i.Status.FrozenUntil.IsZero() { // in the run before
		return
	}
	said, again := "", freezeRetries
	for over := i.Thaw != ""; !over; {
		until := workflow.Now(ctx).Add(freezeLasts)
		frozen, err := i.hooks(ctx, act.Freeze, until)
		nothing := i.Status.FrozenUntil.IsZero()
		switch {
		case err != nil && nothing:
			i.note("deployments are not frozen: %s", cause(err))
			return
		case err != nil:
			frozen.Failed = []string{cause(err)}
		case len(frozen.Done)+len(frozen.Failed) == 0:
			return // there are no hooks
		}
		if len(frozen.Done) > 0 {
			i.Status.FrozenUntil = until
			i.stale = true
		}
		if now := frozen.text("frozen by"); now != said {
			said = now
			i.note("deployments: %s; override with: keyturn incident unfreeze %s", now, i.Status.Incident)
		}
		again = min(2*again, freezeRenews)
		if len(frozen.Failed) == 0 {
			again = freezeRenews
		}
		over, _ = awaitAtMost(ctx, again, "before the freeze of deployments is renewed", func() bool { return i.over || i.Thaw != "" })
	}
	if i.Thaw != "" {
		i.note("deployments go on, as %s asked for", i.Thaw)
	}
	for range 3 {
		frozen, err := i.hooks(ctx, act.Unfreeze, time.Time{})
		if err == nil && len(frozen.Failed) == 0 {
			i.Status.FrozenUntil = time.Time{}
			i.note("deployments: %s", frozen.text("unfrozen by"))
			return
		}
		said = frozen.text("unfrozen by")
		if err != nil {
			said = cause(err)
		}
		_ = sleep(ctx, 10*time.Second, "before trying again to let deployments go on")
	}
	i.note("deployments may be frozen until %s, when that ends by itself: %s", i.Status.FrozenUntil.UTC().Format(time.RFC3339), said)
}

// hooks asks all freeze hooks.
func (i *incidentRun) hooks(ctx workflow.Context, activity any, until time.Time) (frozen frozenHooks, err error) {
	err = freezing.start(ctx, EmergencyQueue, activity, activities.FreezeInput{Emergency: activities.Emergency{Declaration: i.Declarations[0], Since: i.Status.Since}, Until: until}).Get(ctx, &frozen)
	return frozen, err
}

// frozenHooks is what hooks answered.
type frozenHooks activities.Frozen

func (f frozenHooks) text(done string) string {
	var parts []string
	if len(f.Done) > 0 {
		parts = append(parts, done+" "+strings.Join(f.Done, ", "))
	}
	if len(f.Failed) > 0 {
		parts = append(parts, "failed: "+strings.Join(f.Failed, "; "))
	}
	return strings.Join(parts, "; ")
}
