package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

// ErrNoNamespace: the server has no such namespace.
var ErrNoNamespace = errors.New("there is no such namespace")

// Retention is how long the namespace keeps the history of a workflow that has ended. ErrNoNamespace.
func Retention(ctx context.Context, c client.Client, namespace string) (time.Duration, error) {
	answer, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	var none *serviceerror.NamespaceNotFound
	var missing *serviceerror.NotFound
	switch {
	case errors.As(err, &none), errors.As(err, &missing):
		return 0, fmt.Errorf("looking at namespace %q: %w; make it with: temporal operator namespace create --namespace %s --retention 90d (on Temporal Cloud: in its console)",
			namespace, ErrNoNamespace, namespace)
	case err != nil:
		return 0, fmt.Errorf("looking at namespace %q: %w", namespace, err)
	}
	return answer.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration(), nil
}

// Look gathers all that doctor judges by. What cannot be asked is a fact, too. It waits for workers until patience
// ends, and changes nothing but that it starts the workflow Doctor.
func Look(ctx context.Context, c client.Client, address, namespace string, patience time.Duration) policy.Installation {
	i := policy.Installation{At: time.Now(), Address: address, Namespace: namespace, Problems: map[string]string{}}
	problem := func(check string, err error) {
		if err != nil {
			i.Problems[check] = err.Error()
		}
	}
	system, err := c.WorkflowService().GetClusterInfo(ctx, &workflowservice.GetClusterInfoRequest{})
	problem(policy.CheckVersion, err)
	i.ServerVersion = system.GetServerVersion()
	i.Retention, err = Retention(ctx, c, namespace)
	problem(policy.CheckNamespace, err)
	i.AttributesMissing, i.AttributesWrong, err = compare(ctx, c, namespace)
	problem(policy.CheckAttributes, err)
	i.Build, err = Current(ctx, c)
	problem(policy.CheckDeployment, err)
	i.Sweep, err = LookAtSweep(ctx, c)
	problem(policy.CheckSweep, err)
	problem(policy.CheckWorkers, askWorkers(ctx, c, &i, patience))
	return i
}

// looks is how often it is asked who polls, while nobody does.
const (
	looks     = 5
	lookAgain = 500 * time.Millisecond
)

// pollsAgain is how long a worker that lives may not have polled: a poll lasts a minute.
const pollsAgain = 90 * time.Second

func pollers(ctx context.Context, c client.Client, queue string, kind enumspb.TaskQueueType) ([]policy.Poller, error) {
	answer, err := c.DescribeTaskQueue(ctx, queue, kind)
	if err != nil {
		return nil, fmt.Errorf("asking who polls task queue %s: %w", queue, err)
	}
	var list []policy.Poller
	for _, p := range answer.GetPollers() {
		if seen := p.GetLastAccessTime().AsTime(); time.Since(seen) < pollsAgain {
			list = append(list, policy.Poller{Worker: p.GetIdentity(), Build: p.GetDeploymentOptions().GetBuildId(), Seen: seen})
		}
	}
	return list, nil
}

// pollersSoon are the workers that poll for workflow tasks. While there are none it asks a few times: of a worker that has just
// started Temporal does not know at once.
func pollersSoon(ctx context.Context, c client.Client, queue string) ([]policy.Poller, error) {
	found, err := pollers(ctx, c, queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	for look := 1; err == nil && len(found) == 0 && look < looks; look++ {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lookAgain):
		}
		found, err = pollers(ctx, c, queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	}
	return found, err
}

// NobodyPolls tells whether what is begun on a task queue waits for a worker to be started. Not being able to tell counts as no.
func NobodyPolls(ctx context.Context, c client.Client, queue string) bool {
	found, err := pollersSoon(ctx, c, queue)
	return err == nil && len(found) == 0
}

// askWorkers finds out who polls, and asks each of them.
func askWorkers(ctx context.Context, c client.Client, i *policy.Installation, patience time.Duration) error {
	found, err := pollersSoon(ctx, c, workflows.TaskQueue)
	if err != nil {
		return err
	}
	i.Queues = append(i.Queues, policy.Queue{Name: workflows.TaskQueue, Pollers: found})
	var ask []string
	for _, p := range found {
		ask = append(ask, p.Worker)
	}
	slices.Sort(ask)
	ask = slices.Compact(ask)
	if len(ask) == 0 {
		return nil
	}
	report, err := diagnose(ctx, c, ask, patience, i)
	if err != nil {
		// Whoever polls has not answered: no worker of the current build, or none that lives.
		i.Silent = ask
		return nil
	}
	i.Workers, i.Silent = report.Diagnoses, report.Silent
	activities, err := pollers(ctx, c, workflows.TaskQueue, enumspb.TASK_QUEUE_TYPE_ACTIVITY)
	if err != nil {
		return err
	}
	i.Queues = append(i.Queues, policy.Queue{Name: workflows.TaskQueue + " (activities)", Pollers: activities})
	for _, account := range issuerAccounts(i.Workers) {
		polls, err := pollers(ctx, c, workflows.AccountQueue(account), enumspb.TASK_QUEUE_TYPE_ACTIVITY)
		if err != nil {
			return err
		}
		i.Queues = append(i.Queues, policy.Queue{Name: workflows.AccountQueue(account), Pollers: polls})
	}
	return nil
}

func issuerAccounts(workers []policy.Diagnosis) []string {
	var names []string
	for _, w := range workers {
		for _, a := range w.Accounts {
			if a.Issuer {
				names = append(names, a.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// diagnose runs the workflow Doctor. The clock of this machine is compared with that of Temporal, which says when
// the workflow was started: between question and answer.
func diagnose(ctx context.Context, c client.Client, workers []string, patience time.Duration, i *policy.Installation) (workflows.DoctorReport, error) {
	var report workflows.DoctorReport
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	asked := time.Now()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: workflows.DoctorID + "/" + uuid.NewString(), TaskQueue: workflows.TaskQueue, WorkflowExecutionTimeout: patience, StaticSummary: "doctor",
	}, workflows.Doctor, workflows.DoctorInput{Workers: workers})
	if err != nil {
		return report, fmt.Errorf("starting the workflow Doctor: %w", err)
	}
	answered := time.Now()
	if described, err := c.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID()); err == nil {
		i.Ahead = apart(asked, answered, described.GetWorkflowExecutionInfo().GetStartTime().AsTime())
	}
	return report, run.Get(ctx, &report)
}

// apart is how far a span of one clock is ahead of a moment of another that lies in it; zero when it may.
func apart(from, to, moment time.Time) time.Duration {
	switch {
	case moment.Before(from):
		return from.Sub(moment)
	case moment.After(to):
		return to.Sub(moment)
	}
	return 0
}
