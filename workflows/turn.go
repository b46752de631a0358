package workflows

import (
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
)

// Turn is an end of the routine way: what it ends as, and why.
type Turn struct {
	Outcome Outcome       `json:"outcome"`
	Reason  policy.Reason `json:"reason"`
	Message string        `json:"message"`
}

func (t *Turn) Error() string { return t.Message }

// turnTo bounds the message, which becomes a part of the report.
func turnTo(o Outcome, reason policy.Reason, format string, args ...any) *Turn {
	return &Turn{Outcome: o, Reason: reason, Message: outside.Lines(fmt.Sprintf(format, args...), 4*outside.MaxText)}
}

func refused(reason policy.Reason, format string, args ...any) *Turn {
	return turnTo(Refused, reason, format, args...)
}

func turnedBack(reason policy.Reason, format string, args ...any) *Turn {
	return turnTo(RolledBack, reason, format, args...)
}

func failed(reason policy.Reason, format string, args ...any) *Turn {
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
func asTurn(err error) *Turn {
	var t *Turn
	if errors.As(err, &t) {
		return t
	}
	return turnedBack(StepFailed, "%s", cause(err))
}

// turned is the turn that counts now: in a rollback only that of an incident.
func (r *rotation) turned() *Turn {
	if r.rollingBack() {
		return r.superseded()
	}
	return r.Turn
}

// superseded is the turn of an incident, if one takes the credential over.
func (r *rotation) superseded() *Turn {
	if r.Turn != nil && r.Turn.Outcome == Superseded {
		return r.Turn
	}
	return nil
}

// wantBack turns the rotation back at its next safe point, unless it is turned already: an incident most of all is not undone.
func (r *rotation) wantBack(reason policy.Reason, format string, args ...any) {
	if r.Turn == nil {
		r.Turn = turnedBack(reason, format, args...)
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
