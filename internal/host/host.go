// Package host runs keyturn's workflows and activities in this process: it is what the worker program
// and the sandbox have in common.
package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/namespace"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/internal/shipping"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/workflows"
)

// Options say what to run.
type Options struct {
	// Namespace that the client is connected to.
	Namespace string
	// BuildID names the build of the workflow code.
	BuildID     string
	Config      *workerconfig.Config
	Descriptors []providers.Descriptor
	// AllowUnsigned: unsigned specs are accepted for environments for which nobody is trusted to sign.
	AllowUnsigned bool
	// Stamp is the data converter of the client; nil where there is no other worker.
	Stamp *Stamp
	Log   *slog.Logger
}

// Host is a set of running workers.
type Host struct {
	client   client.Client
	options  Options
	do       *activities.Activities
	polling  worker.Options
	inForce  atomic.Pointer[workerconfig.Config]
	workers  []worker.Worker
	accounts map[string]accountQueue
	// stopShipping ends the shipping of audit events.
	stopShipping func()
}

// accountQueue polls the queue of one issuer account, with the quota that it was begun with.
type accountQueue struct {
	worker.Worker
	perSecond float64
}

// stopGrace is how long running activities may take when the host stops; then another worker repeats
// them.
const stopGrace = 20 * time.Second

// Start checks the namespace, begins to poll every queue of this configuration, and makes the build
// current if none is. fatal is called once when a worker cannot go on.
func Start(ctx context.Context, c client.Client, o Options, fatal func(error)) (*Host, error) {
	if err := namespace.Check(ctx, c, o.Namespace); err != nil {
		return nil, err
	}
	record, err := Record(o.Config)
	if err != nil {
		return nil, err
	}
	shipper, err := newShipper(o)
	if err != nil {
		return nil, err
	}
	identity := newIdentity()
	h := &Host{client: c, options: o, accounts: map[string]accountQueue{}, stopShipping: func() {}}
	h.put(o.Config)
	do := &activities.Activities{
		Worker: identity, Build: o.BuildID,
		Config:      h.inForce.Load,
		Descriptors: o.Descriptors, Catalog: all.Catalog(o.Descriptors...), Audit: record,
		Runs:      c,
		Namespace: o.Namespace, AllowUnsigned: o.AllowUnsigned, Now: time.Now, Ahead: activities.AheadOfTemporal, Acknowledge: activities.Acknowledged, Tell: activities.Tell, PollEvery: 250 * time.Millisecond,
	}
	schedules := schedule.New(c, o.Namespace, do.Catalog)
	do.Index, do.Applied = schedules, schedules
	do.Swept = func(ctx context.Context) (policy.SweepReport, bool, error) { return namespace.LatestSweep(ctx, c) }
	if shipper != nil {
		do.ShippingTrouble = shipper.Trouble
		h.stopShipping = begin(shipper.Run)
	}
	h.do = do
	const heartbeatWithin = 2 * time.Second
	options := worker.Options{
		Identity:          identity,
		WorkerStopTimeout: stopGrace,
		OnFatalError:      fatal,
		Interceptors:      []interceptor.WorkerInterceptor{&urgency{}},
		// What a delivery has done is with the server this soon, whenever the process is killed.
		MaxHeartbeatThrottleInterval: heartbeatWithin,
		DeploymentOptions: worker.DeploymentOptions{
			UseVersioning:             true,
			Version:                   worker.WorkerDeploymentVersion{DeploymentName: namespace.Deployment, BuildID: o.BuildID},
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		},
	}
	common := worker.New(c, workflows.TaskQueue, options)
	Register(common)
	common.RegisterActivity(do)
	h.workers = append(h.workers, common)
	// Incidents wait behind no routine workflow task; local activities come with them.
	emergency := worker.New(c, workflows.EmergencyQueue, options)
	Register(emergency)
	emergency.RegisterActivity(do)
	h.workers = append(h.workers, emergency)
	// Doctor asks each worker for itself. The queue is of no build: a build must poll all queues of the one before.
	own := worker.New(c, workflows.WorkerQueue(identity), worker.Options{
		Identity: identity, DisableWorkflowWorker: true, MaxConcurrentActivityTaskPollers: 1, MaxConcurrentActivityExecutionSize: 2,
		WorkerStopTimeout: stopGrace, OnFatalError: fatal,
	})
	own.RegisterActivity(do.Diagnose)
	h.workers = append(h.workers, own)
	for _, w := range h.workers {
		if err := w.Start(); err != nil {
			h.Stop()
			return nil, fmt.Errorf("starting worker: %w", err)
		}
	}
	h.polling = options
	if err := h.pollAccounts(o.Config); err != nil {
		h.Stop()
		return nil, err
	}
	current, err := namespace.MakeFirstCurrent(ctx, c, o.BuildID)
	if err != nil {
		h.Stop()
		return nil, err
	}
	if current != o.BuildID {
		o.Log.Warn("another build is current: this worker gets no workflow tasks until setup --build-id makes it so",
			"current", current, "build", o.BuildID)
	}
	if o.AllowUnsigned {
		o.Log.Warn("unsigned specs are accepted for environments without trusted signers: whoever may write to the namespace can rotate there within the configured bounds")
	}
	return h, nil
}

// pollAccounts polls the queue of each issuer account of a configuration, within its quota, and no other.
func (h *Host) pollAccounts(config *workerconfig.Config) error {
	wanted := map[string]float64{}
	for name, account := range config.Accounts {
		if d, ok := all.Find(h.options.Descriptors, account.Type); ok && d.Issuer != nil { // only the calls to issuers have a queue
			wanted[name] = account.Quota.PerSecond
		}
	}
	var stopping sync.WaitGroup
	for name, queue := range h.accounts {
		if perSecond, stays := wanted[name]; !stays || perSecond != queue.perSecond {
			stopping.Go(queue.Stop) // each lets its activities end
			delete(h.accounts, name)
		}
	}
	stopping.Wait()
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if _, polls := h.accounts[name]; polls {
			continue
		}
		perAccount := h.polling
		perAccount.DisableWorkflowWorker = true
		perAccount.TaskQueueActivitiesPerSecond = wanted[name] // 0: no limit
		w := worker.New(h.client, workflows.AccountQueue(name), perAccount)
		w.RegisterActivity(h.do)
		if err := w.Start(); err != nil {
			return fmt.Errorf("starting worker of account %s: %w", name, err)
		}
		h.accounts[name] = accountQueue{w, wanted[name]}
	}
	return nil
}

// Reload puts another configuration in force, whole or not at all: what activities do from then on is within it, those that run now
// included. What only a new process can change is refused. Not to be called twice at once.
func (h *Host) Reload(next *workerconfig.Config) error {
	before := h.inForce.Load()
	if !reflect.DeepEqual(before.Audit, next.Audit) {
		return errors.New("audit has changed, which is opened when the worker starts: restart it")
	}
	h.put(next)
	if err := h.pollAccounts(next); err != nil {
		h.put(before)
		return errors.Join(err, h.pollAccounts(before))
	}
	return nil
}

// put makes a configuration the one that activities are within.
func (h *Host) put(config *workerconfig.Config) {
	h.inForce.Store(config)
	if h.options.Stamp != nil {
		h.options.Stamp.InForce(config.Digest)
	}
}

// Ready tells why this host can do no work now: Temporal, which it polls, does not answer for the namespace, or no event
// could be kept.
func (h *Host) Ready(ctx context.Context) error {
	if _, err := namespace.Retention(ctx, h.client, h.options.Namespace); err != nil {
		return err
	}
	if file, is := h.do.Audit.(*audit.File); is {
		return file.Writable()
	}
	return nil
}

// Record opens the audit record that a configuration names.
func Record(c *workerconfig.Config) (audit.Sink, error) {
	if c.Audit.File == "" {
		return audit.Discard, nil
	}
	return audit.OpenFile(c.Audit.File)
}

// newShipper is what ships audit events to the sink that a configuration names; nil for none.
func newShipper(o Options) (*shipping.Shipper, error) {
	sink := o.Config.Audit.Sink
	if sink.Type == "" {
		return nil, nil
	}
	d, known := all.Find(o.Descriptors, sink.Type)
	if !known || d.Collector == nil {
		return nil, fmt.Errorf("opening audit sink of type %q: %w", sink.Type, providers.ErrUnsupported)
	}
	to, err := d.Collector.Open(o.Config.NotifierEnvironment(), nil, sink.Settings)
	if err != nil {
		return nil, fmt.Errorf("opening audit sink of type %q: %w", sink.Type, err)
	}
	return shipping.New(o.Config.Audit.File, to, o.Log), nil
}

// begin runs something beside; end has it end, and waits until it has.
func begin(run func(context.Context)) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// Register adds the workflows to a worker, or to a replayer.
func Register(r worker.WorkflowRegistry) {
	r.RegisterWorkflow(workflows.Rotation)
	r.RegisterWorkflow(workflows.Incident)
	r.RegisterWorkflow(workflows.EmergencyRotation)
	r.RegisterWorkflow(workflows.Review)
	r.RegisterWorkflow(workflows.ScheduledRotation)
	r.RegisterWorkflow(workflows.RotationSlot)
	r.RegisterWorkflow(workflows.Inspect)
	r.RegisterWorkflow(workflows.Verify)
	r.RegisterWorkflow(workflows.Scan)
	r.RegisterWorkflow(workflows.Doctor)
	r.RegisterWorkflow(workflows.Audit)
	r.RegisterWorkflow(workflows.Sweep)
}

// newIdentity tells this worker from all others, also from the one before it in the same container.
func newIdentity() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	return fmt.Sprintf("%d@%s@%s", os.Getpid(), name, strings.ToLower(rand.Text()[:8]))
}

// Stop lets running activities end, within a bound, and stops polling.
func (h *Host) Stop() {
	var stopping sync.WaitGroup
	for _, queue := range h.accounts {
		stopping.Go(queue.Stop)
	}
	stopping.Wait()
	for _, w := range slices.Backward(h.workers) {
		w.Stop()
	}
	h.stopShipping() // last: what is not shipped yet waits in the file for the next process
}
