package tests

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	busy "github.com/keyturn/keyturn/internal/patience" // patience is a constant here
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

var credentials = flag.Int("credentials", 10000, "how many BenchmarkApply applies")

// sameConcurrency is how many Schedules apply writes at once.
const sameConcurrency = 8

// BenchmarkApply compares apply and inventory with the bare calls of Temporal that they are made of, one after
// the other on the same server.
func BenchmarkApply(b *testing.B) {
	for b.Loop() {
		n := *credentials
		at := ownServer(b)
		c := at.dial(b)
		b.Cleanup(c.Close)
		var names []string
		folder := b.TempDir()
		for i := range n {
			names = append(names, fmt.Sprintf("bench-%05d", i))
		}
		for chunk := range slices.Chunk(names, 1000) { // a file has a mebibyte at most
			require.NoError(b, os.WriteFile(filepath.Join(folder, chunk[0]+".yaml"), []byte(declared("bench", chunk, nothingMore)), 0o600))
		}

		create := func(names []string, request func(name string) *workflowservice.CreateScheduleRequest) time.Duration {
			return took(func() {
				var group errgroup.Group
				group.SetLimit(sameConcurrency)
				for _, name := range names {
					group.Go(func() error {
						of := request(name)
						_, err := busy.Call(context.Background(), func() (*workflowservice.CreateScheduleResponse, error) {
							return c.WorkflowService().CreateSchedule(context.Background(), of)
						})
						return err
					})
				}
				require.NoError(b, group.Wait())
			})
		}
		bare := create(names, func(name string) *workflowservice.CreateScheduleRequest {
			return &workflowservice.CreateScheduleRequest{
				Namespace: client.DefaultNamespace, ScheduleId: "bare-" + name, RequestId: uuid.NewString(),
				Schedule: &schedulepb.Schedule{
					Spec: &schedulepb.ScheduleSpec{Interval: []*schedulepb.IntervalSpec{{Interval: durationpb.New(24 * time.Hour)}}},
					Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
						WorkflowId: name, WorkflowType: &commonpb.WorkflowType{Name: workflows.ScheduledName}, TaskQueue: &taskqueuepb.TaskQueue{Name: workflows.TaskQueue},
					}}},
				},
			}
		})
		// One of keyturn's is what the others with the same content are made like; half of them come before apply, half after.
		one := filepath.Join(b.TempDir(), "one.yaml")
		require.NoError(b, os.WriteFile(one, []byte(declared("model", []string{"model-12345"}, nothingMore)), 0o600))
		benchStarter(b, at.address, "apply", "-f", one, "-q")
		model, err := busy.Call(context.Background(), func() (*workflowservice.DescribeScheduleResponse, error) {
			return c.WorkflowService().DescribeSchedule(context.Background(), &workflowservice.DescribeScheduleRequest{
				Namespace: client.DefaultNamespace, ScheduleId: schedule.ID("model", "model-12345"),
			})
		})
		require.NoError(b, err)
		delete(model.GetSearchAttributes().GetIndexedFields(), workflows.AttributeCredential.GetName()) // so that nobody takes it for keyturn's
		like := func(name string) *workflowservice.CreateScheduleRequest {
			return &workflowservice.CreateScheduleRequest{
				Namespace: client.DefaultNamespace, ScheduleId: "like-" + name, RequestId: uuid.NewString(),
				Schedule: model.GetSchedule(), SearchAttributes: model.GetSearchAttributes(),
			}
		}
		full := create(names[:n/2], like)
		first, memory := benchStarter(b, at.address, "apply", "-f", folder, "-q")
		full += create(names[n/2:], like)
		again, memoryAgain := benchStarter(b, at.address, "apply", "-f", folder, "-q")
		var listed int
		list := took(func() {
			var page []byte
			for {
				answer, err := c.WorkflowService().ListSchedules(context.Background(), &workflowservice.ListSchedulesRequest{
					Namespace: client.DefaultNamespace, MaximumPageSize: 1000, NextPageToken: page, Query: "KeyturnCredential IS NOT NULL",
				})
				require.NoError(b, err)
				listed += len(answer.GetSchedules())
				if page = answer.GetNextPageToken(); len(page) == 0 {
					return
				}
			}
		})
		require.Equal(b, n+1, listed)
		shown, _ := benchStarter(b, at.address, "inventory", "-o", "csv")
		measure(b, fmt.Sprintf("apply of %d credentials from nothing, as a ratio to as many bare creations of Schedules with the same content, %d at once", n, sameConcurrency), "1.15 or less",
			"%.2f (%.1f s; %d MiB)", first.Seconds()/full.Seconds(), first.Seconds(), memory)
		measure(b, "the same, as a ratio to as many bare creations of empty Schedules", "", "%.2f", first.Seconds()/bare.Seconds())
		measure(b, "the same apply again, without a change, as a ratio to the first", "0.1 or less", "%.3f (%.1f s; %d MiB)", again.Seconds()/first.Seconds(), again.Seconds(), memoryAgain)
		measure(b, "`keyturn inventory` of them, as a ratio to a bare listing", "1.5 or less", "%.2f (%.1f s)", shown.Seconds()/list.Seconds(), shown.Seconds())
	}
}

func took(do func()) time.Duration {
	begun := time.Now()
	do()
	return time.Since(begun)
}

// benchStarter runs the command line; it tells how long that took and how many MiB it needed.
func benchStarter(b *testing.B, address string, args ...string) (time.Duration, int64) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), filepath.Join(programs, "starter"), append([]string{"--address=" + address}, args...)...)
	var out bytes.Buffer
	cmd.Stderr = &out
	d := took(func() { require.NoError(b, cmd.Run(), "%s", out.String()) })
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	require.True(b, ok)
	return d, usage.Maxrss / 1024
}
