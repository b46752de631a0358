package activities

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
)

// cutOffs are the runs that this process has put on record as cut off, so that each sweep does not do it again.
type cutOffs struct{ recorded sync.Map }

// recordCutOff puts on record that a run was cut off, since it could not do so itself; last is the last rotation by the store's metadata, and
// left the keys that are there, as far as somebody could look. Each process that finds the run tells of it once, by the same ID. A record that cannot be written keeps no sweep from what else it looks
// for: the next one writes it.
func (a *Activities) recordCutOff(ctx context.Context, credential string, r policy.Run, last *key.LastRotation, left string) {
	id := "seen/" + r.ID + "/" + string(audit.RotationCutOff)
	if _, done := a.cutOffs.recorded.Load(id); done || !r.CutOff(last) {
		return
	}
	event := audit.Event{
		ID: id, Time: a.Now().UTC(), Type: audit.RotationCutOff, Credential: credential, Rotation: r.Rotation, Run: r.ID, Actor: "worker",
		Detail: map[string]string{"status": strings.ToLower(string(r.Status)), "ended": r.ClosedAt.UTC().Format(time.RFC3339)},
	}
	if left != "" {
		event.Detail["left"] = left
	}
	if err := a.Audit.Append(ctx, event); err != nil {
		activity.GetLogger(ctx).Warn("that a rotation was cut off is not on record; the next sweep tries again", "credential", credential, "run", r.ID, "error", err)
		return
	}
	a.cutOffs.recorded.Store(id, true)
}
