package workflows

import (
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// turn is an end of the routine way: what it ends as, and why.
type turn struct {
	outcome Outcome
	reason  policy.Reason
	message string
}

func (t *turn) Error() string { return t.message }

// turnTo bounds the message, which becomes a part of the report.
func turnTo(o Outcome, reason policy.Reason, format string, args ...any) *turn {
	return &turn{outcome: o, reason: reason, message: outside.Lines(fmt.Sprintf(format, args...), 4*outside.MaxText)}
}

func refused(reason policy.Reason, format string, args ...any) *turn {
	return turnTo(Refused, reason, format, args...)
}

func turnedBack(reason policy.Reason, format string, args ...any) *turn {
	return turnTo(RolledBack, reason, format, args...)
}

func failed(reason policy.Reason, format string, args ...any) *turn {
	return turnTo(Failed, reason, format, args...)
}

// StepFailed is the reason of a turn that trouble of an activity made.
const StepFailed policy.Reason = "step-failed"

// Reasons of turns that people or incidents make.
const (
	RejectedByPerson policy.Reason = "rejected"
	AskedByPerson    policy.Reason = "asked"
	Exposed          policy.Reason = "exposed"
)

// asTurn takes any other error for trouble that did not pass.
func asTurn(err error) *turn {
	var t *turn
	if errors.As(err, &t) {
		return t
	}
	return turnedBack(StepFailed, "%s", cause(err))
}

// turned is the turn that counts now: in a rollback only that of an incident.
func (r *rotation) turned() *turn {
	if r.rollingBack {
		return r.superseded()
	}
	return r.turn
}

// superseded is the turn of an incident, if one takes the credential over.
func (r *rotation) superseded() *turn {
	if r.turn != nil && r.turn.outcome == Superseded {
		return r.turn
	}
	return nil
}

// wantBack turns the rotation back at its next safe point, unless it is turned already: an incident most of all is not undone.
func (r *rotation) wantBack(reason policy.Reason, format string, args ...any) {
	if r.turn == nil {
		r.turn = turnedBack(reason, format, args...)
	}
}

// stop is what ends the routine way at the next safe point: a turn, or the end of this run.
func (r *rotation) stop() error {
	switch t := r.turned(); {
	case t != nil:
		return t
	case r.full:
		return errFull
	}
	return nil
}
