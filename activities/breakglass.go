package activities

import (
	"context"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
)

// noteBreakGlass writes into the metadata that an effect is about to stand on one approval by break-glass, if it was judged so: it is owed
// a review whatever becomes of the effect. Called again it finds that noted.
func (a *Activities) noteBreakGlass(ctx context.Context, s *site, r Rotation, gate inventory.Gate, d policy.Decision) error {
	v := d.Broke
	if v == nil {
		return nil
	}
	_, err := s.amend(ctx, func(m *key.Metadata) error {
		if slices.ContainsFunc(m.BrokenGlass, func(b key.BrokenGlass) bool { return b.ID == v.ID }) || reviewed(*m, v.ID) != nil {
			return errUnchanged
		}
		m.BrokenGlass = append(m.BrokenGlass, key.BrokenGlass{
			ID: v.ID, Rotation: r.ID, Gate: string(gate), By: v.By, ByKey: v.ByKey, Reason: capText(v.Why), At: a.Now().UTC(),
		})
		return nil
	})
	if err != nil {
		return fmt.Errorf("noting the break-glass of %s: %w", v.By, err)
	}
	return a.Audit.Append(ctx, a.event(ctx, r, s, audit.GlassBroken, v.ID, map[string]string{"gate": string(gate), "by": v.By, "why": v.Why}))
}

// GlassReviewInput is somebody's review of what was approved by break-glass.
type GlassReviewInput struct {
	Rotation
	Review signed.Envelope `json:"review"`
}

// GlassReviewed is such a review that counts.
type GlassReviewed struct {
	By      string            `json:"by"`
	Comment string            `json:"comment"`
	Of      []key.BrokenGlass `json:"of"`
}

// ReviewBreakGlass takes approvals by break-glass off the list of what is owed a review: those that the review names, which somebody has to
// have signed who may approve for the credential or break glass, and who broke none of them, neither by name nor by key. Called again it finds
// that done. ErrReview when the review proves nothing.
func (a *Activities) ReviewBreakGlass(ctx context.Context, in GlassReviewInput) (GlassReviewed, error) {
	s, err := a.openHolding(ctx, in.Rotation, true) // called again it finds the run ended
	if err != nil {
		return GlassReviewed{}, forTemporal(err)
	}
	defer s.release()
	reviewed, err := a.reviewGlass(ctx, s, in)
	if err != nil {
		return reviewed, forTemporal(fmt.Errorf("reviewing break-glass of %q: %w", s.spec.Credential.Name, err))
	}
	return reviewed, nil
}

// reviewed is who reviewed an approval by break-glass; nil when nobody did.
func reviewed(m key.Metadata, id string) *key.GlassReview {
	for i, one := range m.GlassReviewed {
		if one.ID == id {
			return &m.GlassReviewed[i]
		}
	}
	return nil
}

func (a *Activities) reviewGlass(ctx context.Context, s *site, in GlassReviewInput) (done GlassReviewed, err error) {
	c := s.spec.Credential
	review, by, err := a.glassReview(s, in.Review)
	if err != nil {
		return done, err
	}
	done.By, done.Comment = by.Name, review.Comment
	_, err = s.amend(ctx, func(m *key.Metadata) error {
		done.Of = nil
		for _, id := range review.Of {
			if before := reviewed(*m, id); before != nil {
				if before.ReviewedBy == by.Name && before.ReviewedByKey == by.Key { // by an attempt before
					done.Of = append(done.Of, before.BrokenGlass)
				}
				continue
			}
			at := slices.IndexFunc(m.BrokenGlass, func(b key.BrokenGlass) bool { return b.ID == id })
			if at < 0 {
				return fmt.Errorf("%w: no approval by break-glass of %s has the ID %q", ErrReview, c.Name, id)
			}
			b := m.BrokenGlass[at]
			if by.Same(signed.Signer{Name: b.By, Key: b.ByKey}) {
				return fmt.Errorf("%w: %s broke the glass, and somebody else has to review it", ErrReview, b.By)
			}
			m.BrokenGlass = slices.Delete(slices.Clone(m.BrokenGlass), at, at+1)
			m.GlassReviewed = append(m.GlassReviewed, key.GlassReview{BrokenGlass: b, ReviewedBy: by.Name, ReviewedByKey: by.Key})
			done.Of = append(done.Of, b)
		}
		if len(done.Of) == 0 {
			return fmt.Errorf("%w: somebody else has reviewed it before, and nothing is left of it to review", ErrReview)
		}
		m.Lease, m.Ended = nil, s.lease.Run // it is all that the run does
		m.GlassReviewed = m.GlassReviewed[max(0, len(m.GlassReviewed)-policy.ReviewedAtOnce):]
		return nil
	})
	if err != nil {
		return done, err
	}
	for _, b := range done.Of {
		detail := map[string]string{"approval": b.ID, "by": done.By, "comment": done.Comment}
		if err := a.Audit.Append(ctx, a.event(ctx, in.Rotation, s, audit.GlassReviewed, b.ID, detail)); err != nil {
			return done, err
		}
	}
	return done, nil
}

// glassReview proves a review.
func (a *Activities) glassReview(s *site, e signed.Envelope) (policy.GlassReview, signed.Signer, error) {
	c := s.spec.Credential
	refuse := func(err error) (policy.GlassReview, signed.Signer, error) {
		return policy.GlassReview{}, signed.Signer{}, fmt.Errorf("%w: %w", ErrReview, err)
	}
	var signers signed.Signers
	for _, group := range append(groups(c.Approvals), a.Config().Trust.BreakGlass[c.Environment]...) {
		of, err := a.Config().Approvers(group)
		if err != nil {
			return refuse(err)
		}
		signers = append(signers, of...)
	}
	body, by, err := e.Open(signed.Review, signers, a.Now())
	if err != nil {
		return refuse(err)
	}
	review, err := policy.ParseGlassReview(body)
	switch {
	case err != nil:
		return refuse(err)
	case review.Namespace != a.Namespace || review.Credential != c.Name:
		return refuse(fmt.Errorf("it reviews %s of namespace %q", review.Credential, review.Namespace))
	}
	return review, by, nil
}
