// Package temporaltest makes the environments in which tests run workflows and activities with skipped time.
package temporaltest

import (
	"log/slog"
	"time"

	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
)

// hang is after how long of real time a test is taken to hang: when nothing at all happens, or one step of a workflow does
// not end. A slow machine must not come near it.
const hang = 5 * time.Minute

// NewEnvironment makes an environment that logs nothing, since what counts is in the results, and that takes no slow machine
// for a hang. A run may last for ten years of skipped time: the environment ends activities with the run.
func NewEnvironment(interceptors ...interceptor.WorkerInterceptor) *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(hang)
	env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: hang, Interceptors: interceptors})
	env.SetWorkflowRunTimeout(10 * 365 * 24 * time.Hour)
	return env
}
