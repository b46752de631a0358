package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

// affected is one credential of an incident.
type affected struct {
	Credential string `json:"credential"`
	// Because says why it is one.
	Because string `json:"because"`
	// After are those of the incident that it was made with: it follows them.
	After   []string `json:"after,omitempty"`
	Exposed []string `json:"exposed"`
	Issuer  string   `json:"issuer,omitempty"`
	// quota is how many calls a second the issuer's account lets through; 0 for no bound, and where no dry run was needed.
	quota float64
}

// paced is an issuer account whose quota holds up an incident.
type paced struct {
	Issuer      string  `json:"issuer"`
	PerSecond   float64 `json:"perSecond"`
	Credentials int     `json:"credentials"`
	// AtLeast is how long it takes until their exposed keys are dead, if nothing else does.
	AtLeast inventory.Duration `json:"atLeast"`
}

// pacedBy are the accounts that pace an incident, the slowest first.
func pacedBy(who []affected) []paced {
	quota, credentials, calls := map[string]float64{}, map[string]int{}, map[string]int{}
	for _, a := range who {
		quota[a.Issuer] = max(quota[a.Issuer], a.quota)
		credentials[a.Issuer]++
		calls[a.Issuer] += workflows.LeastCalls(max(1, len(a.Exposed)))
	}
	list := []paced{}
	for issuer, most := range quota {
		if most > 0 {
			takes := time.Duration(float64(calls[issuer]) / most * float64(time.Second)).Round(time.Second)
			list = append(list, paced{issuer, most, credentials[issuer], inventory.Duration(max(takes, time.Second))})
		}
	}
	slices.SortFunc(list, func(a, b paced) int {
		return cmp.Or(cmp.Compare(b.AtLeast, a.AtLeast), cmp.Compare(a.Issuer, b.Issuer))
	})
	return list
}

// plannedIncident is what a dry run shows.
type plannedIncident struct {
	Incident    string             `json:"incident"`
	Reason      string             `json:"reason"`
	Deadline    inventory.Duration `json:"revokeDeadline"`
	Credentials []affected         `json:"credentials"`
	// Quotas are the accounts that a dry run found to pace it.
	Quotas []paced `json:"quotas"`
}

// declaredIn lists the credentials of a file, as an applied inventory lists them.
func (t *terminal) declaredIn(file, where string) ([]entry, error) {
	if _, labels := parseSelector(where); !labels {
		return nil, usage("--where with -f FILE takes labels, such as team=payments: Temporal knows nothing of a file")
	}
	inv, err := t.load(file)
	if err != nil {
		return nil, err
	}
	var list []entry
	for _, c := range inv.Credentials {
		issuer := c.Issuer.Type + "/" + c.Issuer.Account
		list = append(list, entry{Issuer: issuer, Entry: schedule.Entry{
			Inventory: inv.Name, Credential: c.Name, Owner: c.Owner, Labels: c.Labels, Details: schedule.Details{DependsOn: c.DependsOn},
		}})
	}
	return list, nil
}

// affected finds the credentials that are named, those that match, and all that were made with one of them.
func (e *emergency) affected(ctx context.Context, c client.Client, namespace string, all []entry, names []string) ([]affected, error) {
	labels, _, query, err := listing{where: e.where}.filters()
	if err != nil {
		return nil, err
	}
	schedules := schedule.New(c, namespace, catalog())
	if all == nil {
		listed, err := schedules.List(ctx, "", "")
		if err != nil {
			return nil, err
		}
		for _, one := range listed {
			all = append(all, entry{Entry: one, Issuer: one.Issuer()})
		}
	}
	because := map[string]string{}
	if e.where != "" {
		matching := all
		if query != "" {
			matching = nil
			listed, err := schedules.List(ctx, "", query)
			if err != nil {
				return nil, err
			}
			for _, one := range listed {
				matching = append(matching, entry{Entry: one})
			}
		}
		for _, one := range matching {
			if labels(one) {
				because[one.Credential] = "matches " + e.where
			}
		}
		if len(because) == 0 && len(names) == 0 {
			return nil, exit(exitNotFound, fmt.Errorf("no credential matches %s; nothing was touched", e.where))
		}
	}
	for _, name := range names {
		because[name] = "named"
		if !slices.ContainsFunc(all, func(one entry) bool { return one.Credential == name }) {
			if e.file != "" {
				return nil, exit(exitNotFound, fmt.Errorf("%s has no credential %q", e.file, name))
			}
			return nil, exit(exitNotFound, fmt.Errorf("no applied inventory has %q: apply the one that has it, or name its file with -f FILE", name))
		}
	}
	return downstream(all, because), nil
}

// downstream adds to some credentials all that were made with one of them, and sorts: each comes after those that it was made with.
func downstream(all []entry, because map[string]string) []affected {
	because = maps.Clone(because)
	for more := true; more; {
		more = false
		for _, one := range all {
			if _, in := because[one.Credential]; in {
				continue
			}
			for _, on := range one.DependsOn {
				if _, exposed := because[on]; exposed {
					because[one.Credential], more = "made with "+on, true
					break
				}
			}
		}
	}
	left := map[string]affected{}
	for _, one := range all {
		if why, in := because[one.Credential]; in {
			after := slices.DeleteFunc(slices.Clone(one.DependsOn), func(on string) bool { _, in := because[on]; return !in })
			left[one.Credential] = affected{Credential: one.Credential, Because: why, After: after, Issuer: one.Issuer}
		}
	}
	var sorted []affected
	for len(left) > 0 {
		ready := slices.DeleteFunc(slices.Sorted(maps.Keys(left)), func(name string) bool {
			return slices.ContainsFunc(left[name].After, func(on string) bool { _, waits := left[on]; return waits })
		})
		if len(ready) == 0 {
			ready = slices.Sorted(maps.Keys(left)) // a circle, which no inventory has
		}
		for _, name := range ready {
			sorted = append(sorted, left[name])
			delete(left, name)
		}
	}
	return sorted
}

// atOnce bounds what is asked at once.
const atOnce = 8

// specsOf are the specs of the credentials: as they were applied, or packed from the file.
func (t *terminal) specsOf(ctx context.Context, c client.Client, namespace string, e emergency, who []affected) (map[string]inventory.SignedSpec, error) {
	sign := ""
	if e.file != "" {
		sign = cmp.Or(e.signSpec, e.sign)
	}
	specs := map[string]inventory.SignedSpec{}
	for _, a := range who {
		pick, err := t.pick(e.file, a.Credential, sign, rotateValid)
		if err != nil {
			return nil, err
		}
		if specs[a.Credential], _, err = pick.spec(ctx, c, namespace); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// expose finds out which keys are exposed: those that --key names, and else by what is in use.
func (e *emergency) expose(ctx context.Context, c client.Client, t *terminal, who []affected, specs map[string]inventory.SignedSpec) error {
	for _, k := range e.keys {
		name, id, _ := strings.Cut(k, "=")
		at := slices.IndexFunc(who, func(a affected) bool { return a.Credential == name })
		if at < 0 {
			return usage("--key %q: %s is not affected: name it, too", k, name)
		}
		who[at].Exposed = append(who[at].Exposed, id)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	var mu sync.Mutex
	told := map[string]bool{}
	tell := func(text string) { // once, of how many credentials it may be
		mu.Lock()
		defer mu.Unlock()
		if !told[text] {
			told[text] = true
			t.warn(text)
		}
	}
	for n := range who {
		if len(who[n].Exposed) > 0 {
			continue
		}
		group.Go(func() error {
			keys, quota, err := inUse(ctx, c, who[n].Credential, specs[who[n].Credential], e.suspect, tell)
			mu.Lock()
			defer mu.Unlock()
			who[n].Exposed, who[n].quota = keys, quota
			return err
		})
	}
	return group.Wait()
}

// Which key of a rotation that runs is exposed.
const (
	suspectRetiring = "retiring"
	suspectIncoming = "incoming"
	suspectBoth     = "both"
	// suspectOnlyRetiring is what nobody writes: the retiring one, and no other when that is dead.
	suspectOnlyRetiring = "only-retiring"
)

// suspects are the keys of a rotation that runs that are exposed. One that has only one of them yet has that.
func suspects(s workflows.Status, suspect string) []string {
	retiring, incoming := s.Retiring.KeyID, s.Incoming.KeyID
	for _, k := range s.Keys { // one that is dead is not the one that leaked now
		switch {
		case k.State == workflows.KeyDestroyed && k.Key == workflows.RoleRetiring:
			retiring = ""
		case k.State == workflows.KeyDestroyed && k.Key == workflows.RoleIncoming:
			incoming = ""
		}
	}
	var keys []string
	switch suspect {
	case suspectIncoming:
		keys = []string{incoming}
	case suspectBoth:
		keys = []string{retiring, incoming}
	case suspectOnlyRetiring:
		keys = []string{retiring}
	default:
		keys = []string{cmp.Or(retiring, incoming)}
	}
	return slices.Compact(slices.DeleteFunc(keys, func(id string) bool { return id == "" }))
}

// inUse finds out which keys of a credential are exposed: by the rotation that runs, and else, which consumers use, by a dry run, which
// tells the quota, too.
func inUse(ctx context.Context, c client.Client, name string, spec inventory.SignedSpec, suspect string, tell func(string)) (keys []string, quota float64, err error) {
	if isRunning(ctx, c, name) {
		tellOfSilentRun(ctx, c, workflows.WorkflowID(name), tell)
		value, err := c.QueryWorkflow(ctx, workflows.WorkflowID(name), "", workflows.StatusName)
		var status workflows.Status
		if err == nil {
			err = value.Get(&status)
		}
		if err != nil {
			return nil, 0, noAnswer(fmt.Sprintf("the rotation of %s that runs does not say which key it retires (name the exposed one with --key %s=ID): asking it", name, name), nil, err)
		}
		if keys := suspects(status, suspect); len(keys) > 0 {
			return keys, 0, nil
		}
	}
	if suspect == suspectOnlyRetiring {
		return nil, 0, exit(exitRefused, fmt.Errorf("the rotation of %s retires no key any more: name the exposed one with --key %s=ID", name, name))
	}
	if suspect == suspectIncoming {
		return nil, 0, exit(exitRefused, fmt.Errorf("no rotation of %s has an incoming key now: leave --suspect out, or name the exposed key with --key %s=ID", name, name))
	}
	plan, err := lookAt(ctx, c, workflows.EmergencyQueue, name, workflows.InspectInput{Spec: spec}, tell)
	if err != nil {
		return nil, 0, err
	}
	if plan.Retiring == nil {
		return nil, 0, exit(exitRefused, fmt.Errorf("which key of %s is in use is not known: name the exposed one with --key %s=ID", name, name))
	}
	return []string{plan.Retiring.KeyID}, plan.Quota, nil
}

// lookAt is a dry run of a rotation. It changes nothing, so that the latest question counts. What keeps failing meanwhile is told.
func lookAt(ctx context.Context, c client.Client, queue, name string, in workflows.InspectInput, tell func(string)) (plan policy.Plan, err error) {
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.InspectID(name), TaskQueue: queue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
		WorkflowExecutionTimeout: 10 * time.Minute, StaticSummary: "dry run for " + name,
	}, workflows.Inspect, in)
	if err != nil {
		return plan, fmt.Errorf("starting the dry run: %w", err)
	}
	if warning := noWorker(ctx, c, queue); warning != "" {
		tell(warning)
	}
	err = await(ctx, c, run, &plan, "inspecting "+name, tell)
	return plan, err
}

// printAffected shows what an incident would destroy, and when.
func printAffected(w io.Writer, d incident.Declaration, who []affected) {
	when := "as soon as all consumers are on another one, and " + d.Deadline.String() + " after it begins whoever uses it"
	if d.Deadline == 0 {
		when = "AT ONCE, before there is another one"
	}
	fmt.Fprintf(w, "%s: %s\nEach exposed key is destroyed %s.\n", d.Incident, plain(d.Reason), when)
	rows := [][]string{{"CREDENTIAL", "DESTROYS", "BECAUSE IT IS", "AFTER", "ISSUER"}}
	for _, a := range who {
		rows = append(rows, []string{a.Credential, strings.Join(a.Exposed, ", "), a.Because, strings.Join(a.After, ", "), a.Issuer})
	}
	columns(w, rows...)
	for _, p := range pacedBy(who) {
		fmt.Fprintf(w, "%s lets %.3g calls a second through, those of emergencies first: until the exposed keys of %s are dead it takes %s at least.\n",
			plain(p.Issuer), p.PerSecond, policy.Counted(p.Credentials, "credential"), p.AtLeast)
	}
}
