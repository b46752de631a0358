package activities

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// maxFreeze is for how long a freeze of deployments may be asked for at once.
const maxFreeze = time.Hour

// FreezeInput asks for a freeze of deployments, or for its end.
type FreezeInput struct {
	Emergency
	// Until is when it ends by itself.
	Until time.Time `json:"until,omitzero"`
}

// Frozen is what became of each hook.
type Frozen struct {
	// Done are the hooks that did as asked, Failed why others did not. Both are empty where none is configured.
	Done   []string `json:"done,omitempty"`
	Failed []string `json:"failed,omitempty"`
}

// Freeze has the hooks of the worker configuration keep others from deploying until then, by a declaration that is signed: at most an
// hour ahead, and for at most a day after its deadline. It asks all hooks at once; that one fails keeps no other from it, and is an
// answer. Called again it renews the freeze. ErrDeclaration.
func (a *Activities) Freeze(ctx context.Context, in FreezeInput) (Frozen, error) {
	d, _, err := a.declaration(in.Emergency)
	if err != nil {
		return Frozen{}, forTemporal(err)
	}
	if err = d.Lasts(a.Now()); err == nil && in.Until.After(a.Now().Add(maxFreeze)) {
		err = fmt.Errorf("a freeze lasts at most %s, and is renewed then", maxFreeze)
	}
	if err != nil {
		return Frozen{}, forTemporal(fmt.Errorf("%w: %w", ErrDeclaration, err))
	}
	freeze := providers.Freeze{
		Incident: d.Incident, Reason: d.Reason, Credentials: slices.Sorted(maps.Keys(d.Exposed)), Until: in.Until.UTC(),
		Override: "It ends by itself. To end it now: keyturn incident unfreeze " + d.Incident,
	}
	frozen := a.atHooks(ctx, func(ctx context.Context, f providers.Freezer) error { return f.Freeze(ctx, freeze) })
	return a.recordFreeze(ctx, audit.DeploymentsFrozen, d, in, frozen), nil
}

// Unfreeze has the hooks end the freeze of an incident. Called again it finds none.
func (a *Activities) Unfreeze(ctx context.Context, in FreezeInput) (Frozen, error) {
	d, _, err := a.declaration(in.Emergency)
	if err != nil {
		return Frozen{}, forTemporal(err)
	}
	thawed := a.atHooks(ctx, func(ctx context.Context, f providers.Freezer) error { return f.Unfreeze(ctx, d.Incident) })
	return a.recordFreeze(ctx, audit.DeploymentsThawed, d, in, thawed), nil
}

// recordFreeze writes into the audit record of each credential of the declaration what became of the hooks, each time. That it cannot is a
// failure beside theirs: what they did is done.
func (a *Activities) recordFreeze(ctx context.Context, kind audit.Type, d incident.Declaration, in FreezeInput, now Frozen) Frozen {
	if len(now.Done)+len(now.Failed) == 0 {
		return now // there are no hooks
	}
	run, at := activity.GetInfo(ctx).WorkflowExecution.RunID, a.Now().UTC()
	detail := map[string]string{"incident": d.Incident, "hooks": strings.Join(now.Done, ", "), "failed": strings.Join(now.Failed, "; ")}
	if !in.Until.IsZero() {
		detail["until"] = in.Until.UTC().Format(time.RFC3339)
	}
	var events []audit.Event
	for _, name := range slices.Sorted(maps.Keys(d.Exposed)) {
		events = append(events, audit.Event{
			ID:   strings.Join([]string{"seen", d.Incident, string(kind), at.Format(time.RFC3339Nano), name}, "/"),
			Time: at, Type: kind, Credential: name, Run: run, Actor: "worker", Detail: detail,
		})
	}
	if err := a.Audit.Append(ctx, events...); err != nil {
		now.Failed = append(now.Failed, "audit record: "+capText(err.Error()))
	}
	return now
}

// hookLasts bounds what one hook may take.
const hookLasts = 15 * time.Second

// atHooks does something with all hooks at once.
func (a *Activities) atHooks(ctx context.Context, do func(context.Context, providers.Freezer) error) (all Frozen) {
	ctx, done := context.WithTimeout(ctx, hookLasts)
	defer done()
	config := a.Config()
	var mu sync.Mutex
	var run fanOut
	for i, hook := range config.Freeze {
		run.do(func() {
			name := fmt.Sprintf("%s (%d of %d)", hook.Type, i+1, len(config.Freeze))
			freezer, err := a.freezer(config, hook)
			if err == nil {
				err = do(ctx, freezer)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				all.Failed = append(all.Failed, name+": "+capText(err.Error()))
				return
			}
			all.Done = append(all.Done, name)
		})
	}
	run.wait()
	slices.Sort(all.Done)
	slices.Sort(all.Failed)
	return all
}

func (a *Activities) freezer(config *workerconfig.Config, hook workerconfig.FreezeHook) (providers.Freezer, error) {
	i := slices.IndexFunc(a.Descriptors, func(d providers.Descriptor) bool { return d.Type == hook.Type && d.Freezer != nil })
	if i < 0 {
		return nil, fmt.Errorf("freezer type %q: %w", hook.Type, providers.ErrUnsupported)
	}
	return a.Descriptors[i].Freezer.Open(config.FreezeEnvironment(), nil, hook.Settings)
}
