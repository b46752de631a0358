package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/version"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/sandbox/internal/demo"
	"github.com/keyturn/keyturn/sandbox/internal/devserver"
	"github.com/keyturn/keyturn/sandbox/internal/live"
	"github.com/keyturn/keyturn/workflows"
)

// demoOptions are the flags of the root command.
type demoOptions struct {
	folder string
	// once approves by itself and ends with the rotation.
	once bool
	// aws: IAM and Secrets Manager instead of the gateway and files.
	aws bool
	// emergency: the key is exposed while it is rotated.
	emergency bool
}

// summary is the last line of --once.
type summary struct {
	Outcome  workflows.Outcome `json:"outcome"`
	Requests int               `json:"requests"`
	Refused  int               `json:"refused"`
	Failed   int               `json:"failed"`
	Seconds  float64           `json:"seconds"`
	Retired  string            `json:"retired"`
	Current  string            `json:"current"`
}

// watchEvery is how often the rotation and the traffic are looked at.
const watchEvery = 250 * time.Millisecond

// runDemo runs everything in this process: Temporal with its Web UI, the worker, the gateway and its
// consumers, and one rotation of their key.
func runDemo(ctx context.Context, o demoOptions, out io.Writer) error {
	folder, err := demo.MakeFolder(o.folder)
	if err != nil {
		return err
	}
	return o.leave(folder, o.demonstrate(ctx, folder, out))
}

// leave removes the state that nobody needs any more: of --once, in a folder that was made for it, when all went well.
func (o demoOptions) leave(folder demo.Folder, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%w; the state is in %s", err, folder)
	case !o.once || o.folder != "":
		return nil
	}
	if err := os.RemoveAll(string(folder)); err != nil {
		return fmt.Errorf("removing the state: %w", err)
	}
	return nil
}

func (o demoOptions) demonstrate(ctx context.Context, folder demo.Folder, out io.Writer) error {
	screen := live.NewScreen(out)
	defer screen.Leave()
	peer := "a gateway"
	if o.aws {
		peer = "a user of " + os.Getenv("AWS_ENDPOINT_URL")
	}
	screen.Print("Starting Temporal, " + peer + " and three consumers; the state is in " + string(folder))

	server, err := startServer(ctx, folder, screen)
	if err != nil {
		return err
	}
	defer server.Stop()
	options := demo.Options{Folder: folder, AWS: o.aws}
	if o.emergency {
		options.Signed, options.Windows.Overlap = true, longOverlap
	}
	services, err := demo.Start(ctx, options)
	if err != nil {
		return err
	}
	defer services.Stop()

	logFile, err := os.OpenFile(folder.WorkerLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the worker's log: %w", err)
	}
	defer logFile.Close()
	logger := slog.New(slog.NewTextHandler(logFile, nil))
	c, err := client.DialContext(ctx, client.Options{
		HostPort: server.Address(), Namespace: devserver.Namespace, Logger: log.NewStructuredLogger(logger),
		ConnectionOptions: client.ConnectionOptions{GetSystemInfoTimeout: devserver.ReadyWithin},
	})
	if err != nil {
		return fmt.Errorf("connecting to the sandbox's Temporal: %w", err)
	}
	defer c.Close()
	worker, err := startWorker(ctx, c, services.Place(), !o.emergency, logger)
	if err != nil {
		return err
	}
	defer worker.Stop()

	begun := time.Now()
	run, err := startRotation(ctx, c, services.Place(), o.emergency)
	if err != nil {
		return err
	}
	d := &demonstration{
		once: o.once, client: c, run: run, services: services, screen: screen,
		state: live.State{
			RunURL: server.RunURL(run.GetID(), run.GetRunID()), Folder: string(folder),
			Approve: []string{
				"the Web UI: open the run, choose More Actions, Send a Signal, name approve, data {\"gate\":\"revoke\",\"by\":\"you\"}",
				fmt.Sprintf("the CLI: TEMPORAL_ADDRESS=%s go run ./starter approve %s --gate revoke", server.Address(), demo.Credential),
			},
		},
	}
	if o.emergency {
		return d.emergency(ctx, out, fmt.Sprintf("TEMPORAL_ADDRESS=%s go run ./starter emergency %s -f %s --sign %s --reason WHY --wait",
			server.Address(), demo.Credential, folder.Inventory(), folder.SigningKey()))
	}
	report, err := d.watch(ctx)
	if ctx.Err() != nil && !o.once {
		screen.Print("", "Ended before the rotation did. Its state is in "+string(folder))
		return nil
	}
	if err != nil {
		return err
	}
	if !o.once {
		d.idle(ctx, "The rotation has ended")
		return nil
	}
	services.Stop() // every request is answered before the count
	return conclude(out, report, services.Snapshot(), time.Since(begun))
}

func startServer(ctx context.Context, folder demo.Folder, screen *live.Screen) (*devserver.Server, error) {
	logFile, err := os.OpenFile(folder.ServerLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the server's log: %w", err)
	}
	return devserver.Start(ctx, devserver.Options{
		File: folder.Database(), Log: logFile, Waiting: func(line string) { screen.Print(line) },
		Port: devserver.DefaultPort, OrAnotherPort: true, UIPort: devserver.DefaultUIPort, OrAnotherUIPort: true,
	})
}

func startWorker(ctx context.Context, c client.Client, place demo.Place, unsigned bool, logger *slog.Logger) (*host.Host, error) {
	config, err := workerconfig.LoadFile(place.Worker, all.Descriptors())
	if err != nil {
		return nil, err
	}
	return host.Start(ctx, c, host.Options{
		Namespace: devserver.Namespace, BuildID: version.ID(), Config: config, Descriptors: all.Descriptors(),
		AllowUnsigned: unsigned, Log: logger,
	}, func(err error) { logger.Error("the worker cannot go on", "error", err) })
}

func startRotation(ctx context.Context, c client.Client, place demo.Place, signed bool) (client.WorkflowRun, error) {
	spec, err := specOf(place, signed)
	if err != nil {
		return nil, err
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.WorkflowID(place.Credential), TaskQueue: workflows.TaskQueue,
		WorkflowExecutionErrorWhenAlreadyStarted: true, StaticSummary: "rotation of " + place.Credential,
		StaticDetails: "The sandbox's demonstration: a key that three consumers use all the time, at a gateway that checks it.",
	}, workflows.Rotation, workflows.RotationInput{Spec: spec, Reason: "the sandbox's demonstration", RequestedBy: "sandbox"})
	if err != nil {
		return nil, fmt.Errorf("starting the rotation: %w", err)
	}
	return run, nil
}

// specOf is the spec of the demonstration's credential, signed with the folder's key where the worker wants that.
func specOf(place demo.Place, signed bool) (spec inventory.SignedSpec, err error) {
	data, err := os.ReadFile(place.Inventory)
	if err != nil {
		return spec, fmt.Errorf("reading the sandbox's inventory: %w", err)
	}
	inv, err := inventory.Load(place.Inventory, data, all.Catalog(all.Descriptors()...))
	if err != nil {
		return spec, err
	}
	whole := inventory.Spec{Inventory: inv.Name, Generation: time.Now().UnixMilli(), Credential: inv.Credentials[0]}
	if signed {
		whole.Namespace = devserver.Namespace
	}
	if spec, err = inventory.NewSpec(whole); err != nil || !signed {
		return spec, err
	}
	key, done, err := place.Folder.Signer()
	if err != nil {
		return spec, err
	}
	defer done()
	return spec.Sign(key)
}

// demonstration follows one rotation.
type demonstration struct {
	once     bool
	latest   bool // the latest run is looked at, and not the first one
	client   client.Client
	run      client.WorkflowRun
	services *demo.Services
	screen   *live.Screen
	state    live.State
}

// watch shows the rotation until it has ended, and with --once approves its gate.
func (d *demonstration) watch(ctx context.Context) (workflows.Report, error) {
	for {
		d.look(ctx)
		d.screen.Draw(d.state)
		if d.state.Status.Report != nil {
			return d.report(ctx)
		}
		if gate := d.state.Status.Gate; d.once && gate != nil && len(gate.Approvals) == 0 {
			if err := d.approve(ctx, *gate); err != nil {
				return workflows.Report{}, err
			}
		}
		select {
		case <-ctx.Done():
			return workflows.Report{}, errors.New("ended before the rotation did")
		case <-time.After(watchEvery):
		}
	}
}

// look takes the state anew. A rotation that cannot be asked just now keeps its last status.
func (d *demonstration) look(ctx context.Context) {
	d.state.At, d.state.Traffic = time.Now(), d.services.Snapshot()
	run := d.run.GetRunID()
	if d.latest {
		run = ""
	}
	value, err := d.client.QueryWorkflow(ctx, d.run.GetID(), run, workflows.StatusName)
	var status workflows.Status
	if err == nil && value.Get(&status) == nil {
		d.state.Status = status
	}
}

func (d *demonstration) approve(ctx context.Context, gate policy.OpenGate) error {
	handle, err := d.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: d.run.GetID(), RunID: d.run.GetRunID(), UpdateName: workflows.ApproveName,
		WaitForStage: client.WorkflowUpdateStageCompleted,
		Args:         []any{policy.Request{Gate: gate.Gate, By: "sandbox --once", Run: gate.Run, Evidence: gate.Evidence}},
	})
	if err != nil {
		return fmt.Errorf("approving: %w", err)
	}
	var verdict policy.Verdict
	return handle.Get(ctx, &verdict)
}

// report is the run's result; that of a failed one is in its error.
func (d *demonstration) report(ctx context.Context) (workflows.Report, error) {
	var report workflows.Report
	err := d.run.Get(ctx, &report)
	var failed *temporal.ApplicationError
	if errors.As(err, &failed) && failed.Type() == workflows.FailedType {
		return report, failed.Details(&report)
	}
	return report, err
}

// idle goes on showing the traffic until Ctrl-C.
func (d *demonstration) idle(ctx context.Context, ended string) {
	d.state.Say = []string{ended + "; the traffic goes on. Look around in the Web UI. End with Ctrl-C."}
	for ctx.Err() == nil {
		d.look(ctx)
		d.screen.Draw(d.state)
		select {
		case <-ctx.Done():
		case <-time.After(watchEvery):
		}
	}
}

// conclude prints the summary. Only a completed rotation under which no request was refused is a success.
func conclude(out io.Writer, r workflows.Report, traffic demo.Snapshot, took time.Duration) error {
	line, err := json.Marshal(summary{
		Outcome: r.Outcome, Requests: traffic.Sent, Refused: traffic.Refused, Failed: traffic.Failed,
		Seconds: took.Round(100 * time.Millisecond).Seconds(), Retired: r.Retiring.KeyID, Current: r.Incoming.KeyID,
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, string(line))
	switch {
	case r.Outcome != workflows.Completed:
		return fmt.Errorf("the rotation ended as %s: %s", r.Outcome, r.Message)
	case traffic.Refused+traffic.Failed > 0:
		return fmt.Errorf("%d requests were refused and %d got no answer", traffic.Refused, traffic.Failed)
	}
	return nil
}
