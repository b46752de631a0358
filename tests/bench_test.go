package tests

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/providers/memory"
	"github.com/keyturn/keyturn/workflows"
)

// page is where make bench writes what it measured; nowhere without the flag.
var page = flag.String("page", "", "file that the benchmark's page is written to")

// measured are the lines of the page's table, in their order.
var measured []string

func measure(b *testing.B, what, aim, format string, args ...any) {
	b.Helper()
	line := fmt.Sprintf("| %s | %s | %s |", what, fmt.Sprintf(format, args...), aim)
	b.Log(line)
	measured = append(measured, line)
}

const benchConfig = `
apiVersion: keyturn/worker/v1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["bench-*"], storePaths: ["bench-*"]}}
`

const benchInventory = `
apiVersion: keyturn/v1
inventory: bench
credentials:
  - name: NAME
    owner: bench@example.com
    purpose: measuring
    environment: test
    overlap: 0s
    quietWindow: 0s
    waveSoak: 0s
    waveTimeout: 30s
    disableSoak: 0s
    approvals: {revoke: {count: 1, trust: any}}
    issuer: {type: memory, account: edge, principal: NAME}
    store: {type: memory, account: vault, path: NAME}
    consumers:
      - {name: canary, wave: canary, target: {type: memory, instance: NAME-canary}, check: {type: memory, instance: NAME-canary}, attestation: {type: memory, instance: NAME-canary}}
      - name: checkout
        instances: [a, b]
        target: {type: memory, instance: "NAME-{instance}"}
        check: {type: memory, instance: "NAME-{instance}"}
        attestation: {type: memory, instance: "NAME-{instance}"}
`

// field is a World with many credentials, and a worker on it that is connected to a server.
type field struct {
	home
	world       *memory.World
	descriptors []providers.Descriptor
	catalog     inventory.Catalog
	config      *workerconfig.Config
	client      client.Client
	worker      *host.Host
}

func newField(tb testing.TB, at home) *field {
	tb.Helper()
	return newFieldWith(tb, at, "")
}

// newFieldWith has more in its worker configuration.
func newFieldWith(tb testing.TB, at home, config string) *field {
	tb.Helper()
	return newFieldOf(tb, at, benchConfig+config)
}

// newFieldOf has this worker configuration.
func newFieldOf(tb testing.TB, at home, config string) *field {
	tb.Helper()
	f := &field{home: at, world: memory.NewWorld(nil)}
	descriptors := []providers.Descriptor{f.world.Descriptor()}
	f.descriptors, f.catalog = descriptors, all.Catalog(descriptors...)
	var err error
	f.config, err = workerconfig.Load("keyturn-worker.yaml", []byte(config), descriptors)
	require.NoError(tb, err)
	f.client = f.dial(tb)
	tb.Cleanup(f.client.Close)
	f.worker, err = host.Start(context.Background(), f.client, host.Options{
		Namespace: f.namespace, BuildID: "test", Config: f.config, Descriptors: descriptors, AllowUnsigned: true, Log: slog.New(slog.DiscardHandler),
	}, func(err error) { tb.Error(err) })
	require.NoError(tb, err)
	tb.Cleanup(f.worker.Stop)
	return f
}

// plant makes a credential with its key and its consumers, and returns its spec. It needs no approval, and
// nothing in it waits, but for what change says.
func (f *field) plant(tb testing.TB, name string, change func(*inventory.Credential)) inventory.SignedSpec {
	tb.Helper()
	inv, err := inventory.Load("inventory.yaml", []byte(strings.ReplaceAll(benchInventory, "NAME", name)), f.catalog)
	require.NoError(tb, err)
	c := inv.Credentials[0]
	c.Approvals, c.ErrorBudget = inventory.Approvals{}, nil
	if change != nil {
		change(&c)
	}
	settings := memory.Strict()
	settings.ReportsUsage = false // nobody uses these keys
	f.world.SetPrincipal(name, settings)
	bundle := f.world.AddKey(name, name+"-key-old", time.Now().Add(-time.Hour))
	require.NoError(tb, f.world.Use(bundle, "canary")) // else the issuer would tell of no use
	f.world.AddVersion(name, bundle)
	for _, instance := range []string{"canary", "a", "b"} {
		f.world.SetInstance(name+"-"+instance, memory.InstanceSettings{})
		f.world.Give(name+"-"+instance, bundle)
	}
	spec, err := inventory.NewSpec(inventory.Spec{Inventory: "bench", Generation: 100, Credential: c})
	require.NoError(tb, err)
	return spec
}

// rotate starts a rotation as starter does.
func (f *field) rotate(ctx context.Context, name string, spec inventory.SignedSpec) (client.WorkflowRun, error) {
	known, err := spec.Peek()
	if err != nil {
		return nil, err
	}
	return f.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.WorkflowID(name), TaskQueue: workflows.TaskQueue, TypedSearchAttributes: workflows.SearchAttributes(known.Credential),
	}, workflows.Rotation, workflows.RotationInput{Spec: spec})
}

// A rotation without gates has so many activities, the watch included, and so many that run locally.
const steps, localSteps = 10, 2

// bare is a workflow of as many activities that do nothing.
func bare(ctx workflow.Context) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: time.Minute})
	for range steps {
		if err := workflow.ExecuteActivity(ctx, nothing).Get(ctx, nil); err != nil {
			return err
		}
	}
	for range localSteps {
		if err := workflow.ExecuteLocalActivity(ctx, nothing).Get(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

func nothing(context.Context) error { return nil }

// BenchmarkRotations compares rotations with bare workflows, in turns on the same server.
func BenchmarkRotations(b *testing.B) {
	const rounds, each, atOnce = 5, 60, 10
	f := newField(b, ownServer(b))
	plain := worker.New(f.client, "bare", worker.Options{})
	plain.RegisterWorkflow(bare)
	plain.RegisterActivity(nothing)
	require.NoError(b, plain.Start())
	b.Cleanup(plain.Stop)
	round := func(run func(ctx context.Context, n int) error) float64 {
		begun := time.Now()
		group, ctx := errgroup.WithContext(b.Context())
		group.SetLimit(atOnce)
		for n := range each {
			group.Go(func() error { return run(ctx, n) })
		}
		require.NoError(b, group.Wait())
		return each / time.Since(begun).Seconds()
	}
	var rotations, bares, ratios []float64
	for r := range rounds + 1 {
		rotating := round(func(ctx context.Context, n int) error {
			name := fmt.Sprintf("bench-%d-%d", r, n)
			run, err := f.rotate(ctx, name, f.plant(b, name, nil))
			if err != nil {
				return err
			}
			var report workflows.Report
			if err := run.Get(ctx, &report); err != nil || report.Outcome != workflows.Completed {
				return fmt.Errorf("%s: %s: %s (%w)", name, report.Outcome, report.Message, err)
			}
			return nil
		})
		resting := round(func(ctx context.Context, n int) error {
			run, err := f.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: "bare"}, bare)
			if err != nil {
				return err
			}
			return run.Get(ctx, nil)
		})
		if r > 0 { // the first one warms up
			rotations, bares, ratios = append(rotations, rotating), append(bares, resting), append(ratios, rotating/resting)
		}
	}
	b.ReportMetric(median(ratios), "ratio")
	measure(b, fmt.Sprintf("rotations a second, %d at once, all waits zero, memory providers, as a ratio to a bare workflow of as many no-op activities (%d, and %d local ones)", atOnce, steps, localSteps),
		"0.8 or more", "%.2f (%.1f to %.1f a second)", median(ratios), median(rotations), median(bares))
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// BenchmarkHistory measures what a rotation of two waves, three instances and one approval leaves, and what a
// longer overlap adds to it.
func BenchmarkHistory(b *testing.B) {
	f := newField(b, ownServer(b))
	history := func(name string, overlap time.Duration) (events, size, copies int) {
		spec := f.plant(b, name, func(c *inventory.Credential) {
			c.Overlap, c.WaveSoak, c.DisableSoak = inventory.Duration(overlap), inventory.Duration(time.Second), inventory.Duration(time.Second)
			c.Approvals.Revoke = &inventory.Approval{Count: 1, Trust: inventory.TrustAny, RequestExpires: inventory.Duration(time.Hour), ApprovalExpires: inventory.Duration(time.Hour)}
		})
		run, err := f.rotate(b.Context(), name, spec)
		require.NoError(b, err)
		eventually(b, func() bool {
			value, err := f.client.QueryWorkflow(b.Context(), run.GetID(), "", workflows.StatusName)
			var status workflows.Status
			return err == nil && value.Get(&status) == nil && status.Gate != nil
		}, overlap+time.Minute, 100*time.Millisecond)
		_, err = f.client.UpdateWorkflow(b.Context(), client.UpdateWorkflowOptions{
			WorkflowID: run.GetID(), UpdateName: workflows.ApproveName, WaitForStage: client.WorkflowUpdateStageCompleted,
			Args: []any{policy.Request{Gate: inventory.GateRevoke, By: "ann"}},
		})
		require.NoError(b, err)
		require.NoError(b, run.Get(b.Context(), nil))
		all := f.client.GetWorkflowHistory(b.Context(), run.GetID(), "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for all.HasNext() {
			event, err := all.Next()
			require.NoError(b, err)
			events, size = events+1, size+event.Size()
			copies += bytes.Count([]byte(event.String()), []byte(`\"credential\":{`)) * len(spec.Body)
		}
		return events, size, copies
	}
	events, size, copies := history("bench-short", 2*time.Second)
	longer, _, _ := history("bench-long", 20*time.Second)
	b.ReportMetric(float64(events), "events")
	measure(b, "events in the history of a rotation of two waves, three instances, one approval", "90 or fewer", "%d", events)
	measure(b, "bytes of that history, without the copies of the spec", "40 KiB or fewer", "%.1f KiB (%.1f KiB with them)", float64(size-copies)/1024, float64(size)/1024)
	measure(b, "events that an overlap ten times as long adds", "none", "%d", longer-events)
}

// BenchmarkOverlap measures a worker, and its server, with many rotations in their overlap, and then with twice as many.
func BenchmarkOverlap(b *testing.B) {
	const many, window = 1000, time.Minute
	server := follow(b, "sandbox", serverInMemory())
	address, err := server.address()
	require.NoError(b, err)
	f := newField(b, home{address, client.DefaultNamespace})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	used := func() time.Duration {
		var u syscall.Rusage
		require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	park := func(from, to int) {
		var group errgroup.Group
		group.SetLimit(20)
		for n := from; n < to; n++ {
			group.Go(func() error {
				name := fmt.Sprintf("bench-%d", n)
				spec := f.plant(b, name, func(c *inventory.Credential) { c.Overlap = inventory.Duration(24 * time.Hour) })
				_, err := f.rotate(b.Context(), name, spec)
				return err
			})
		}
		require.NoError(b, group.Wait())
		eventually(b, func() bool {
			found, err := f.client.CountWorkflow(b.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: client.DefaultNamespace, Query: "KeyturnPhase = 'overlap'"})
			return err == nil && found.Count == int64(to)
		}, 10*time.Minute, time.Second)
		<-time.After(window / 2) // what it took to get there is over
	}
	const what = "%d rotations in their overlap, each looked at every 30 s: "
	var shares []float64
	before := heap()
	for _, parked := range []int{many, 2 * many} {
		park(parked-many, parked)
		after := heap()
		ours, theirs := used(), usedBy(b, server)
		<-time.After(window)
		worker, temporal := float64(used()-ours)/float64(window), float64(usedBy(b, server)-theirs)/float64(window)
		shares = append(shares, worker+temporal)
		measure(b, fmt.Sprintf(what+"memory of the worker, all in its cache, and of Temporal", parked), "", "%.0f MiB (%.0f KiB each), %d MiB",
			float64(after-before)/(1<<20), float64(after-before)/float64(parked)/1024, resident(b, server))
		measure(b, fmt.Sprintf(what+"CPU of the worker, and of Temporal", parked), "", "%.1f %%, %.1f %% of a core", 100*worker, 100*temporal)
	}
	// A tenth of the looks for ten times as many: what a thousand more cost above.
	more := shares[1] - shares[0]
	b.ReportMetric(100*more, "%CPU/10000")
	measure(b, "what that says of 10000 in an overlap of days, each looked at every 5 minutes: CPU of worker and Temporal", "half a core", "%.1f %% of a core", 100*more)
}

// usedBy is how much CPU a process has used.
func usedBy(b *testing.B, p *process) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	require.NoError(b, err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, field := range fields[11:13] { // in user mode, and in the kernel
		n, err := strconv.ParseInt(field, 10, 64)
		require.NoError(b, err)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// resident is how much memory a process has, in MiB.
func resident(b *testing.B, p *process) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(b, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(b, err)
	return kib / 1024
}

// BenchmarkPrograms measures how fast the command line answers, and how big the programs are.
func BenchmarkPrograms(b *testing.B) {
	var took []float64
	for range 20 {
		begun := time.Now()
		require.NoError(b, exec.Command(filepath.Join(programs, "starter"), "--help").Run())
		took = append(took, float64(time.Since(begun).Microseconds())/1000)
	}
	b.ReportMetric(median(took), "ms")
	measure(b, "start-up of `keyturn --help`", "50 ms", "%.0f ms", median(took))
	for _, folder := range []string{"starter", "worker"} {
		info, err := os.Stat(filepath.Join(programs, folder))
		require.NoError(b, err)
		measure(b, "size of "+map[string]string{"starter": "keyturn", "worker": "keyturn-worker"}[folder], "", "%.0f MiB", float64(info.Size())/(1<<20))
	}
}

// writePage writes what was measured to the page that make bench keeps.
func writePage() error {
	if *page == "" || len(measured) == 0 {
		return nil
	}
	var text strings.Builder
	fmt.Fprintf(&text, `# Benchmarks

All numbers and ratios of one run, by `+"`make bench`"+` (about twenty minutes), with %s on %s/%s with %d cores. Temporal is the sandbox's, in
memory, and runs beside the worker on the same cores; a ratio compares things that took turns in that run.

| what | measured | aim |
|---|---|---|
%s
`, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), strings.Join(measured, "\n"))
	return os.WriteFile(*page, []byte(text.String()), 0o644) //nolint:gosec // a page of the documentation
}
