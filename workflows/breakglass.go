package workflows

import (
	"fmt"
	"strings"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
)

// BrokenGlass is an approval by break-glass that nobody has reviewed.
type BrokenGlass = key.BrokenGlass

// review records that somebody reviewed what was approved by break-glass. It runs as a rotation, since that alone may write what the store
// has of the credential.
func (r *rotation) review() error {
	if err := r.accept(act.Accept); err != nil {
		return err
	}
	var done activities.GlassReviewed
	input := activities.GlassReviewInput{Rotation: *r.acting(), Review: *r.in.Review}
	if err := r.step(reviewingGlass, act.ReviewBreakGlass, &input, &done); err != nil {
		return refusal(err, "the review was not recorded")
	}
	var of []string
	for _, b := range done.Of {
		of = append(of, fmt.Sprintf("%s at the %s gate (%s)", b.By, b.Gate, b.Reason))
	}
	r.reviewed = fmt.Sprintf("%s reviewed break-glass of %s: %s", done.By, strings.Join(of, "; "), done.Comment)
	r.note("%s", r.reviewed)
	return nil
}

// toldOfBreakGlass tells people loudly that one person passed a gate alone.
func (r *rotation) toldOfBreakGlass(by, gate, why string) {
	r.note("BREAK-GLASS: %s passed the %s gate alone: %s", by, gate, why)
	r.tell(notifyAlert, "break-glass/"+gate, "BREAK-GLASS: the "+gate+" gate of "+r.Status.Credential+" was passed by one person alone",
		fmt.Sprintf("%s: %s. Somebody else has to review it within 24 h: keyturn review rotation/%s --sign KEY --comment WHAT-YOU-FOUND", by, why, r.Status.Credential))
}
