package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// PauseName is the signal that has an incident begin nothing further until ResumeName comes: each a PauseRequest, or nothing. What it has
// begun goes on to its end: who is half way to another key is not left there.
const (
	PauseName  = "pause"
	ResumeName = "resume"
)

// PauseRequest says who wants an incident to pause, or to go on, and why.
type PauseRequest struct {
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// IncidentPause is since when an incident begins nothing, and who wanted that.
type IncidentPause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// pausedAgain is how often it is said that an incident pauses.
const pausedAgain = time.Hour

// listenForPause takes what people ask for, from the first moment on: a pause that comes before the declaration holds, too.
func (i *incidentRun) listenForPause() {
	take := func(name, description string, do func(PauseRequest)) {
		signals := workflow.GetSignalChannelWithOptions(i.ctx, name, workflow.SignalChannelOptions{Description: description})
		workflow.Go(i.ctx, func(ctx workflow.Context) {
			for {
				var asked PauseRequest
				i.receive(ctx, signals, &asked)
				asked.By, asked.Reason = clip(cmp.Or(asked.By, "somebody")), clip(asked.Reason)
				do(asked)
			}
		})
	}
	take(PauseName, `Begin nothing further until resume comes; what has begun goes on; sent by keyturn incident pause, e.g. {"by":"ann","reason":"checkout is down"}`, func(asked PauseRequest) {
		if i.Status.Paused == nil {
			i.Status.Paused = &IncidentPause{By: asked.By, Reason: asked.Reason, At: workflow.Now(i.ctx)}
			i.note("%s", i.Status.pauseLine())
		}
	})
	take(ResumeName, `Go on after a pause; sent by keyturn incident resume, e.g. {"by":"ann"}`, func(asked PauseRequest) {
		if i.Status.Paused != nil {
			i.Status.Paused = nil
			i.note("goes on, as %s asked for", asked.By)
		}
	})
}

// receive waits for what somebody asks of the incident, which the name of the signal says: an input that cannot be read is none, where the
// SDK would drop the whole.
func (i *incidentRun) receive(ctx workflow.Context, signals workflow.ReceiveChannel, asked any) {
	var payload converter.RawValue
	signals.Receive(ctx, &payload)
	i.heard++
	if p := payload.Payload(); p != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(p, asked)
	}
}

// mayBegin waits until the emergency of a credential may be begun, or asked for: while the incident pauses, none is.
func (i *incidentRun) mayBegin(ctx workflow.Context, m *IncidentMember) {
	for {
		if m.Held = i.Status.Paused != nil; m.Held {
			i.became(m, "waits: the incident is paused")
			_ = workflow.Await(ctx, func() bool { return i.Status.Paused == nil })
			m.Held = false
		}
		if i.turn(ctx); i.Status.Paused == nil {
			return
		}
	}
}

// waitsForResume tells whether the emergency of a credential does not begin, since the incident pauses: also when it would not yet, otherwise.
func (i *incidentRun) waitsForResume(m IncidentMember) bool {
	return i.Status.Paused != nil && m.Outcome == "" && (m.Held || !i.Asked[m.Credential])
}

// paused are the credentials whose emergency does not begin, since the incident pauses.
func (i *incidentRun) paused() (names []string) {
	for _, m := range i.Status.Credentials {
		if i.waitsForResume(m) {
			names = append(names, m.Credential)
		}
	}
	return names
}

// standing is the status as it is shown.
func (i *incidentRun) standing() IncidentStatus {
	s := i.Status
	if s.Paused != nil {
		s.Credentials = slices.Clone(s.Credentials)
		for n, m := range s.Credentials {
			s.Credentials[n].Held = i.waitsForResume(m)
		}
	}
	return s
}

// watchPause says that the incident pauses, again and again while something waits for that, and that it goes on.
func (i *incidentRun) watchPause(ctx workflow.Context) {
	holds := func() bool { return len(i.paused()) > 0 }
	for !i.over {
		switch now := workflow.Now(ctx); {
		case !holds() && i.PauseAlarmAt.IsZero():
			_ = workflow.Await(ctx, func() bool { return i.over || i.telling == 0 && holds() })
		case !holds():
			i.PauseAlarmAt = time.Time{}
			i.tell(ctx, activities.NewsResumed)
		case i.PauseAlarmAt.After(now):
			_, _ = awaitAtMost(ctx, i.PauseAlarmAt.Sub(now), "the incident to go on after its pause, then an alarm", func() bool { return i.over || !holds() })
		default:
			i.PauseAlarmAt = now.Add(pausedAgain)
			i.tell(ctx, activities.NewsPaused)
		}
	}
}

// pauseLine says that an incident pauses; empty when it does not.
func (s IncidentStatus) pauseLine() string {
	if s.Paused == nil {
		return ""
	}
	because := ""
	if s.Paused.Reason != "" {
		because = " (" + s.Paused.Reason + ")"
	}
	return fmt.Sprintf("PAUSED by %s at %s%s: what has not begun does not begin, not at the deadline either, and what has goes on. Go on with: keyturn incident resume %s",
		s.Paused.By, s.Paused.At.UTC().Format(time.TimeOnly), because, s.Incident)
}

// PauseLine says that an incident pauses, and of how many credentials the exposed keys wait for its end; empty when it does not.
func (s IncidentStatus) PauseLine() string {
	held := 0
	for _, m := range s.Credentials {
		if m.Held {
			held++
		}
	}
	line := s.pauseLine()
	if line == "" {
		return ""
	}
	line += fmt.Sprintf(" (%d of %d credentials wait)", held, len(s.Credentials))
	if !s.FrozenUntil.IsZero() {
		line += ". Deployments stay frozen meanwhile; let them go on with: keyturn incident unfreeze " + s.Incident
	}
	return line
}
