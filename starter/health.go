package main

import (
	"math/bits"
	"slices"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
)

// reading is what the error budget was judged by at one time: the errors of a window, of how many requests.
type reading struct {
	at            time.Time
	errors, total float64
}

func (r reading) ratio() float64 {
	if r.total <= 0 {
		return 0
	}
	return min(max(r.errors/r.total, 0), 1)
}

// heartbeat is what activities that run leave for their next attempt, as far as a picture shows it: the readings of a
// watch, and how far a delivery is. The server keeps it, so that it costs nothing to look; but whoever may write to the
// namespace may have written it, in another version too.
type heartbeat struct {
	// Signals are the readings of each health signal.
	Signals []policy.Readings `json:"signals"`
	// Key is which one is delivered; Done has a bit for each instance that has it.
	Key  string `json:"key"`
	Done []byte `json:"done"`
}

// beatOf is the last heartbeat of those activities; the zero one when there is none that can be read.
func beatOf(pending []*workflowpb.PendingActivityInfo, activities ...string) (beat heartbeat) {
	var latest time.Time
	for _, a := range pending {
		if at := a.GetLastHeartbeatTime().AsTime(); slices.Contains(activities, a.GetActivityType().GetName()) && !at.Before(latest) {
			if b, ok := decodeBeat(a.GetHeartbeatDetails()); ok {
				beat, latest = b, at
			}
		}
	}
	return beat
}

func decodeBeat(details *commonpb.Payloads) (heartbeat, bool) {
	var beat heartbeat
	if len(details.GetPayloads()) == 0 || converter.GetDefaultDataConverter().FromPayload(details.GetPayloads()[0], &beat) != nil {
		return heartbeat{}, false
	}
	return beat, true
}

// maxReadings bounds what a watch of weeks keeps of the budget.
const maxReadings = 600

// learned is what a watch asks for beside the status.
type learned struct {
	// plan is what the rotation does, spec what it follows, and follows the same as it was signed; zero while they are not known.
	plan    policy.Plan
	spec    inventory.Credential
	follows inventory.SignedSpec
	pending []*workflowpb.PendingActivityInfo
}

// take takes an answer into the picture.
func (p *picture) take(a answer) {
	p.status, p.plan, p.spec, p.delivered = a.status, a.plan, a.spec, 0
	p.heard, p.silent = a.at, ""
	if delivery := beatOf(a.pending, "DeliverWave"); delivery.Key == p.status.Incoming.KeyID {
		for _, b := range delivery.Done {
			p.delivered += bits.OnesCount8(b)
		}
	}
	p.errors = append(p.errors, readingsAfter(p.errors, beatOf(a.pending, "Watch", "AwaitHealth").Signals)...)
	p.errors = p.errors[max(0, len(p.errors)-maxReadings):]
}

// readingsAfter are the readings that the signals have and that are not known yet.
func readingsAfter(known []reading, signals []policy.Readings) []reading {
	var after time.Time
	if len(known) > 0 {
		after = known[len(known)-1].at
	}
	var times []time.Time
	for _, s := range signals {
		for _, sample := range s[:min(len(s), maxReadings)] {
			if sample.At.After(after) {
				times = append(times, sample.At)
			}
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	times = slices.CompactFunc(times, time.Time.Equal)
	var fresh []reading
	for _, at := range times[max(0, len(times)-maxReadings):] {
		if r, ok := readingAt(signals, at); ok {
			fresh = append(fresh, r)
		}
	}
	return fresh
}

// readingAt adds the signals up as they were at a time, the way policy.BudgetHolds does.
func readingAt(signals []policy.Readings, at time.Time) (reading, bool) {
	sum, seen := reading{at: at}, false
	for _, s := range signals {
		n := 0
		for n < len(s) && !s[n].At.After(at) {
			n++
		}
		switch {
		case n == 0:
		case s[n-1].Window > 0:
			seen = true
			sum.errors, sum.total = sum.errors+s[n-1].Errors, sum.total+s[n-1].Total
		case n > 1:
			seen = true
			for i := 1; i < n; i++ {
				errors, total := s[i].Errors-s[i-1].Errors, s[i].Total-s[i-1].Total
				if errors < 0 || total < 0 { // the source was restarted, and counts from zero
					errors, total = s[i].Errors, s[i].Total
				}
				sum.errors, sum.total = sum.errors+errors, sum.total+total
			}
		}
	}
	return sum, seen
}
