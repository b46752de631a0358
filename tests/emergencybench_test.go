package tests

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

var exposed = flag.Int("exposed", 1000, "how many exposed keys BenchmarkEmergency ends")

// Of the issuer: how long each of its calls takes, and how many activities a second the worker configuration lets call it.
const (
	issuerAnswers = 100 * time.Millisecond
	issuerQuota   = 100
)

// issuerCalls are those of an issuer; what it can do is no call.
var issuerCalls = []memory.Op{memory.OpList, memory.OpIssue, memory.OpIdentify, memory.OpDestroy, memory.OpDisable, memory.OpEnable, memory.OpSelfTest, memory.OpUses}

// BenchmarkEmergency has one incident over many credentials of an issuer that is slow and has a quota: alone, and with routine work in the
// queue of its account. A script that ends one exposed key after the other, on the same issuer, is what it is compared with.
func BenchmarkEmergency(b *testing.B) {
	alone := contains(b, false)
	behind := contains(b, true)
	script := ends(b)
	b.ReportMetric(script.Seconds()/alone.took.Seconds(), "times-faster")
	measure(b, fmt.Sprintf("one incident of %d exposed keys, an issuer that answers in %s, a quota of %d activities a second: share of the quota that is used until the last key is dead", *exposed, issuerAnswers, issuerQuota),
		"0.9 or more", "%.2f (%.1f s; %d activities, %d calls of the issuer)", float64(alone.activities)/issuerQuota/alone.took.Seconds(), alone.took.Seconds(), alone.activities, alone.calls)
	measure(b, "a script that ends them one after the other, as a ratio to that", "8 or more", "%.1f (%.0f s)", script.Seconds()/alone.took.Seconds(), script.Seconds())
	measure(b, fmt.Sprintf("the same incident behind %d routine activities in the queue, as a ratio to the one alone", backlog), "1.1 or less", "%.2f (%.1f s)",
		behind.took.Seconds()/alone.took.Seconds(), behind.took.Seconds())
}

// containment is how an incident went.
type containment struct {
	took       time.Duration // until the last exposed key was dead
	activities int           // that called the issuer until then
	calls      int64
}

// slow makes an issuer that answers late, and counts.
func slow(w *memory.World, calls *atomic.Int64) {
	w.Befall(func(ctx context.Context, c memory.Call) error {
		if c.Phase != memory.Before || !slices.Contains(issuerCalls, c.Op) {
			return nil
		}
		calls.Add(1)
		select {
		case <-time.After(issuerAnswers):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// backlog is how many routine activities wait in the queue of the account.
const backlog = 2000

// contains plays an incident.
func contains(b *testing.B, behindRoutine bool) (c containment) {
	b.Helper()
	ann := newPerson(b, b.TempDir(), "ann")
	signers := filepath.Join(b.TempDir(), "signers")
	trust(b, signers, ann)
	config := strings.Replace(benchConfig, "edge: {type: memory}", fmt.Sprintf("edge: {type: memory, quota: %d/s}", issuerQuota), 1)
	f := newFieldOf(b, ownServer(b), config+"trust: {incidents: '"+signers+"'}\n")
	applied := schedule.New(f.client, f.namespace, f.catalog)
	names := make([]string, *exposed)
	var group errgroup.Group
	group.SetLimit(sameConcurrency)
	for n := range names {
		names[n] = fmt.Sprintf("bench-%04d", n)
		spec := f.plant(b, names[n], nil)
		group.Go(func() error {
			var content schedule.Content
			if err := content.Declare(spec); err != nil {
				return err
			}
			return applied.Create(context.Background(), content)
		})
	}
	require.NoError(b, group.Wait())
	var calls atomic.Int64
	slow(f.world, &calls)
	if behindRoutine {
		f.fill(b)
	}

	input := workflows.IncidentInput{RequestedBy: "ann"}
	id := incident.ID("bench")
	now := time.Now().UTC().Truncate(time.Millisecond)
	for part := range slices.Chunk(names, incident.MaxCredentials) {
		d := incident.Declaration{Namespace: f.namespace, Incident: id, Reason: "a leak", Deadline: inventory.Duration(time.Hour), Exposed: map[string][]string{}, Nonce: rand.Text(), SignedAt: now, Expires: now.Add(incident.MaxValid)}
		for _, name := range part {
			d.Exposed[name] = []string{name + "-key-old"}
		}
		envelope, err := d.Sign(ann.key)
		require.NoError(b, err)
		if input.Declaration.Body == nil {
			input.Declaration = envelope
		} else {
			input.More = append(input.More, envelope)
		}
	}
	begun := time.Now()
	run, err := f.client.ExecuteWorkflow(b.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: workflows.EmergencyQueue}, workflows.Incident, input)
	require.NoError(b, err)
	var status workflows.IncidentStatus
	require.NoError(b, run.Get(b.Context(), &status))
	require.Equal(b, workflows.Contained, status.Outcome, status.Message)
	var last time.Time
	for _, e := range f.world.Happened(memory.OpDestroy) {
		if strings.HasSuffix(e.KeyID, "-key-old") {
			last, c.calls = e.At, calls.Load()
		}
	}
	c.took = last.Sub(begun)
	for _, name := range names {
		c.activities += f.calling(b, workflows.WorkflowID(name), last)
	}
	return c
}

// calling counts the activities of a workflow that were begun on the queue of the account until a moment.
func (f *field) calling(b *testing.B, id string, until time.Time) (n int) {
	b.Helper()
	on := map[int64]bool{}
	all := f.client.GetWorkflowHistory(b.Context(), id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for all.HasNext() {
		e, err := all.Next()
		require.NoError(b, err)
		if asked := e.GetActivityTaskScheduledEventAttributes(); asked != nil {
			on[e.GetEventId()] = asked.GetTaskQueue().GetName() == workflows.AccountQueue("edge")
		}
		if began := e.GetActivityTaskStartedEventAttributes(); began != nil && on[began.GetScheduledEventId()] && !e.GetEventTime().AsTime().After(until) {
			n++
		}
	}
	return n
}

// fill puts routine activities into the queue of the account: looks at credentials that are not concerned.
func (f *field) fill(b *testing.B) {
	b.Helper()
	const each = 100
	name := "bench-routine"
	spec := f.plant(b, name, nil)
	routine := func(ctx workflow.Context) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: workflows.AccountQueue("edge"), StartToCloseTimeout: time.Minute})
		var looks []workflow.Future
		for range each {
			looks = append(looks, workflow.ExecuteActivity(ctx, "Inspect", activities.Rotation{Spec: spec}))
		}
		for _, look := range looks {
			if err := look.Get(ctx, nil); err != nil {
				return err
			}
		}
		return nil
	}
	w := worker.New(f.client, "routine", worker.Options{})
	w.RegisterWorkflowWithOptions(routine, workflow.RegisterOptions{Name: "routine"})
	require.NoError(b, w.Start())
	b.Cleanup(w.Stop)
	for n := range backlog / each {
		_, err := f.client.ExecuteWorkflow(b.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("routine-%d", n), TaskQueue: "routine"}, "routine")
		require.NoError(b, err)
	}
	eventually(b, func() bool {
		waiting := 0
		for n := range backlog / each {
			described, err := f.client.DescribeWorkflowExecution(b.Context(), fmt.Sprintf("routine-%d", n), "")
			if err == nil {
				waiting += len(described.GetPendingActivities())
			}
		}
		return waiting > backlog/2
	}, patience, 10*time.Millisecond, "the backlog waits")
}

// ends is how long a script takes that ends exposed keys one after the other: it looks, issues another one, tries that, destroys the
// exposed one, and sees it refused. It is run for some of them, and takes as much longer as there are more.
func ends(b *testing.B) time.Duration {
	b.Helper()
	const some = 20
	w := memory.NewWorld(nil)
	var calls atomic.Int64
	begun := time.Now()
	for n := range some {
		name := fmt.Sprintf("script-%d", n)
		w.SetPrincipal(name, memory.Strict())
		old := w.AddKey(name, name+"-key-old", time.Now())
		if n == 0 {
			slow(w, &calls)
			begun = time.Now()
		}
		issuer := w.Issuer(name)
		tests := issuer.(providers.SelfTester)
		_, err := issuer.List(b.Context())
		require.NoError(b, err)
		issued, err := issuer.Issue(b.Context(), providers.IssueRequest{Token: name})
		require.NoError(b, err)
		require.NoError(b, tests.SelfTest(b.Context(), issued.Bundle))
		require.NoError(b, issuer.Destroy(b.Context(), key.Ref{Principal: name, KeyID: name + "-key-old"}))
		require.ErrorIs(b, tests.SelfTest(b.Context(), old), providers.ErrKeyRefused)
	}
	return time.Since(begun) * time.Duration(*exposed) / some
}
