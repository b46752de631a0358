package workflows

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// Outbox has the events that the workflow saw and that no audit record is known to have. They go along with what is done
// next, and leave once that has ended well: what failed or was cancelled may not have written them. A record that gets one
// twice has it once, by its ID.
type Outbox struct {
	events []audit.Event
	size   int // of all of them as they travel, in bytes
}

// What goes along with one activity. Temporal takes no input above 2 MB, and a spec may have half of that.
const (
	maxAlong     = 50
	maxAlongSize = 256 << 10
)

// size is how many bytes a value takes in an input, a result or a report. Quotes and angle brackets take six each.
func size(v any) int {
	text, err := json.Marshal(v)
	if err != nil {
		return 0 // then it does not travel either
	}
	return len(text)
}

func (o *Outbox) isEmpty() bool { return len(o.events) == 0 }

// IsZero tells encoding/json to leave out an empty one.
func (o Outbox) IsZero() bool { return o.isEmpty() }

// MarshalJSON writes the events alone.
func (o Outbox) MarshalJSON() ([]byte, error) { return json.Marshal(o.events) }

// UnmarshalJSON reads the events.
func (o *Outbox) UnmarshalJSON(text []byte) error {
	var events []audit.Event
	if err := json.Unmarshal(text, &events); err != nil {
		return err
	}
	*o = Outbox{}
	o.add(events...)
	return nil
}

func (o *Outbox) add(events ...audit.Event) {
	o.events = append(o.events, events...)
	for _, e := range events {
		o.size += size(e)
	}
}

// crowded tells whether more waits than goes along with one activity.
func (o *Outbox) crowded() bool {
	return len(o.events) > maxAlong || o.size > maxAlongSize && len(o.events) > 1
}

// along are the first events, as many as go along with one activity: at least one, if there is one.
func (o *Outbox) along() []audit.Event {
	if !o.crowded() {
		return slices.Clone(o.events)
	}
	n, total := 1, size(o.events[0])
	for ; n < min(len(o.events), maxAlong); n++ {
		if total += size(o.events[n]); total > maxAlongSize {
			break
		}
	}
	return slices.Clone(o.events[:n])
}

// written takes out what a record has.
func (o *Outbox) written(events []audit.Event) {
	ids := make(map[string]bool, len(events))
	for _, e := range events {
		ids[e.ID] = true
	}
	o.events = slices.DeleteFunc(o.events, func(e audit.Event) bool {
		if ids[e.ID] {
			o.size -= size(e)
		}
		return ids[e.ID]
	})
}

// happened adds an event that no activity sees by itself to the audit record.
func (r *rotation) happened(t audit.Type, detail map[string]string) {
	r.Numbered++
	for _, name := range workflow.DeterministicKeys(detail) {
		detail[name] = outside.Text(detail[name], 4*outside.MaxText)
	}
	r.Outbox.add(audit.Event{
		ID:   fmt.Sprintf("%s/%s/%d", r.Status.Rotation, t, r.Numbered),
		Time: workflow.Now(r.ctx).UTC(), Type: t, Credential: r.Status.Credential, Rotation: r.Status.Rotation,
		Run: workflow.GetInfo(r.ctx).WorkflowExecution.RunID, Actor: "workflow", Detail: detail,
	})
}

// acknowledge takes the events out of the outbox that went along with what has ended well.
func (r *rotation) acknowledge(input any) {
	if in, ok := input.(interface{ Along() []audit.Event }); ok {
		r.Outbox.written(in.Along())
	}
}

// log writes what fits into one message to the audit record, by itself.
func (r *rotation) log() error {
	batch := r.Outbox.along()
	if err := r.run(logging, act.Log, batch, nil); err != nil {
		r.notice("could not %s: %s", logging.summary, cause(err))
		return err
	}
	r.Outbox.written(batch)
	return nil
}

// flush writes what is more than can go along. What it cannot write stays, and is tried again with what comes next.
func (r *rotation) flush() {
	for r.Outbox.crowded() && r.log() == nil {
	}
}

// write writes what waits until enough of it is written: the run ends then, and nobody else has it. It goes on until the record
// takes it, and tells people what keeps it from that.
func (r *rotation) write(enough func() bool) {
	told := false
	for pause := time.Minute; !enough(); pause = min(2*pause, 30*time.Minute) {
		err := r.log()
		if err == nil {
			continue
		}
		if !told {
			told = true
			r.tell(notifyAlert, "unrecorded", "The audit record cannot be written",
				fmt.Sprintf("The run has come to its end, and the audit record lacks %s of it: %s. It is tried again and again.", policy.Counted(len(r.Outbox.events), "event"), cause(err)))
		}
		r.waitFor("the audit record to be written: "+cause(err), "whoever keeps the worker's audit record; it is tried again by itself")
		if sleep(r.ctx, pause, "before trying again to write the audit record") != nil {
			return
		}
	}
}
