package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/policy"
)

// WorkerQueue is where one worker alone takes activities, by its identity: doctor asks each for itself.
func WorkerQueue(identity string) string { return TaskQueue + "-worker-" + identity }

// DoctorID is the ID of what doctor starts, before what tells one from another.
const DoctorID = "doctor"

// DoctorInput says which workers to ask: those that Temporal names as pollers.
type DoctorInput struct {
	Workers []string `json:"workers"`
}

// DoctorReport is what they answered.
type DoctorReport struct {
	// At is Temporal's time at the begin.
	At        time.Time          `json:"at"`
	Diagnoses []policy.Diagnosis `json:"diagnoses"`
	// Silent are the workers that did not answer.
	Silent []string `json:"silent,omitempty"`
}

// mostWorkers bounds how many are asked.
const mostWorkers = 200

// Doctor asks workers what they are and how they reach their accounts. It changes nothing.
func Doctor(ctx workflow.Context, in DoctorInput) (DoctorReport, error) {
	report := DoctorReport{At: workflow.Now(ctx), Diagnoses: []policy.Diagnosis{}}
	workers := in.Workers[:min(len(in.Workers), mostWorkers)]
	answers := make([]workflow.Future, 0, len(workers))
	for _, w := range workers {
		answers = append(answers, workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			TaskQueue: WorkerQueue(w), Summary: "ask " + clip(w),
			ScheduleToStartTimeout: 10 * time.Second, StartToCloseTimeout: time.Minute,
			RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
		}), act.Diagnose))
	}
	for i, answer := range answers {
		var d policy.Diagnosis
		if err := answer.Get(ctx, &d); err != nil {
			if temporal.IsCanceledError(err) {
				return report, err
			}
			report.Silent = append(report.Silent, workers[i])
			continue
		}
		report.Diagnoses = append(report.Diagnoses, d)
	}
	return report, nil
}
