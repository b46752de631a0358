// Package retried tells what a run tries again and again.
package retried

import workflowpb "go.temporal.io/api/workflow/v1"

// NotYet is the type of the error by which an activity waits, as it should: no failure.
const NotYet = "NotYet"

// Step is an activity whose last attempt failed. Failure is what it said, which may come from anybody.
type Step struct {
	Activity, ID string
	// Attempts is how often it was tried, the attempt counted that runs or is due.
	Attempts int
	Failure  string
}

// MostTried is the one of them that was tried most often; ok is false when none has failed.
func MostTried(pending []*workflowpb.PendingActivityInfo) (most Step, ok bool) {
	for _, p := range pending {
		failing := p.GetLastFailure()
		if failing == nil || failing.GetApplicationFailureInfo().GetType() == NotYet {
			continue
		}
		if n := int(p.GetAttempt()); !ok || n > most.Attempts {
			most, ok = Step{Activity: p.GetActivityType().GetName(), ID: p.GetActivityId(), Attempts: n, Failure: failing.GetMessage()}, true
		}
	}
	return most, ok
}
