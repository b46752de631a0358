package policy

import (
	"time"

	"github.com/keyturn/keyturn/internal/key"
)

// RunStatus is Temporal's status of a run.
type RunStatus string

// The statuses that matter.
const (
	RunRunning    RunStatus = "Running"
	RunCompleted  RunStatus = "Completed"
	RunFailed     RunStatus = "Failed"
	RunTerminated RunStatus = "Terminated"
	RunTimedOut   RunStatus = "TimedOut"
	RunCanceled   RunStatus = "Canceled"
)

// Run is what Temporal knows of the latest rotation of a credential; zero when it knows of none.
type Run struct {
	ID string
	// Rotation is its rotation ID: that of the first of the runs that went on in each other.
	Rotation string
	// Type is that of its workflow.
	Type      string
	Status    RunStatus
	Running   bool
	StartedAt time.Time
	ClosedAt  time.Time
	// TaskAttempts is how often the workflow's next task was tried, TaskSince when it was first due; zero when none
	// is due.
	TaskAttempts int
	TaskSince    time.Time
	// Step is the activity tried most often whose last attempt failed, and did not merely wait; empty for none. Steps
	// that wait are tried for hours, so that the number of attempts is not one of failures. StepID names it in the run.
	Step, StepID string
	StepAttempts int
	StepFailure  string
}

// FailingStep names a step that failed when a sweep looked; ok is false when none did, or it was tried a few times only.
func (r Run) FailingStep() (id string, ok bool) {
	return r.ID + "/" + r.StepID, r.Step != "" && r.StepAttempts >= stuckSteps
}

// cutOff says how Temporal ended a run.
func (s RunStatus) cutOff() string {
	switch s {
	case RunTimedOut:
		return "timed out"
	case RunCanceled:
		return "was cancelled"
	}
	return "was terminated"
}

// CutOff tells whether Temporal ended a run, which could not record that itself, and the store's metadata has no end of it. A run that
// failed is none: it does not end before its end is in the audit record.
func (r Run) CutOff(last *key.LastRotation) bool {
	switch r.Status {
	case RunTerminated, RunTimedOut, RunCanceled:
		return !r.Running && (last == nil || last.ID != r.Rotation)
	}
	return false
}
