package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/retried"
	"github.com/keyturn/keyturn/providers"
)

// Sentinels of this package; most are final, like those of package providers.
var (
	// ErrSpec: the spec is not one that this worker accepts.
	ErrSpec = errors.New("spec refused")
	// ErrUntrusted: the spec is signed by somebody who is not trusted, or not any more. Trust can come back.
	ErrUntrusted = errors.New("spec not trusted")
	// ErrOutOfBounds: the worker configuration does not let the spec be followed, or has not what it names. It can change.
	ErrOutOfBounds = errors.New("out of the bounds of the worker configuration")
	// ErrDeclaration: the declaration of an incident proves nothing here: by it nothing is done.
	ErrDeclaration = errors.New("declaration refused")
	// ErrReview: a review proves nothing, or is by who has to be reviewed.
	ErrReview = errors.New("review refused")
	// ErrRefused: policy does not let an effect be, by facts that waiting does not change.
	ErrRefused = errors.New("refused")
	// ErrRetiringGone: the issuer accepts the retiring key no more, for good.
	ErrRetiringGone = errors.New("the retiring key is gone")
	// ErrHeld: another run holds the lease of the credential.
	ErrHeld = errors.New("held")
	// ErrLeft: no Schedule has the credential, so that it is in no inventory any more, or never was.
	ErrLeft = errors.New("it left the inventory")
	// ErrAmbiguous: facts admit two readings, and guessing could destroy a key that is in use.
	ErrAmbiguous = errors.New("ambiguous")
	// errWritten: others write the metadata all the time. Looking again, by another attempt, helps.
	errWritten = errors.New("the metadata was written meanwhile")
	// errClock: this worker's clock cannot be trusted. Another one's may be right, or this one's by the next attempt.
	errClock = errors.New("the clock of this worker is not that of Temporal")
	// ErrStagedKeyDead: the version that this mint staged holds no live key.
	ErrStagedKeyDead = errors.New("the staged key is not live")
)

// The types of Temporal application errors, stable for those who read histories.
const (
	TypeSpec        = "SpecRefused"
	TypeUntrusted   = "SpecNotTrusted"
	TypeOutOfBounds = "OutOfBounds"
	TypeDeclaration = "DeclarationRefused"
	TypeReview      = "ReviewRefused"
	TypeRefused     = "Refused"
	TypeGone        = "RetiringGone"
	TypeHeld        = "Held"
	TypeDenied      = "Denied"
	TypeInvalid     = "Invalid"
	TypeNotFound    = "NotFound"
	TypeConflict    = "Conflict"
	TypeSlotsFull   = "SlotsFull"
	TypeAmbiguous   = "Ambiguous"
	TypeUnsupported = "Unsupported"
	TypeKeyRefused  = "KeyRefused"
	TypeStagedDead  = "StagedKeyDead"
	TypeLeft        = "LeftTheInventory"
	TypeThrottled   = "Throttled"
	TypePending     = "Pending"
	TypeNotYet      = retried.NotYet
	TypePassing     = "Passing"
)

// kinds is the one place that decides which errors Temporal retries. The first match counts; an error
// that matches none is passing trouble.
var kinds = []struct {
	sentinel error
	name     string
	final    bool
}{
	{ErrUntrusted, TypeUntrusted, true},     // the workflow waits until the spec is trusted again
	{ErrOutOfBounds, TypeOutOfBounds, true}, // likewise
	{ErrDeclaration, TypeDeclaration, true},
	{ErrReview, TypeReview, true},
	{ErrRefused, TypeRefused, true},
	{ErrRetiringGone, TypeGone, true},
	{ErrHeld, TypeHeld, true},
	{ErrSpec, TypeSpec, true},
	{ErrLeft, TypeLeft, true},
	{ErrAmbiguous, TypeAmbiguous, true},
	{ErrStagedKeyDead, TypeStagedDead, true},
	{errWritten, TypeConflict, false},
	{providers.ErrThrottled, TypeThrottled, false},
	{providers.ErrPending, TypePending, false},
	{providers.ErrTokenUsed, TypePassing, false}, // the next attempt finds the orphan by its token
	{providers.ErrDenied, TypeDenied, true},
	{providers.ErrInvalid, TypeInvalid, true},
	{providers.ErrUnsupported, TypeUnsupported, true},
	{providers.ErrSlotsFull, TypeSlotsFull, true},
	{providers.ErrConflict, TypeConflict, true},
	{providers.ErrNotFound, TypeNotFound, true},
	{providers.ErrKeyRefused, TypeKeyRefused, true},
}

// final tells whether trying again cannot help.
func final(err error) bool {
	for _, k := range kinds {
		if errors.Is(err, k.sentinel) {
			return k.final
		}
	}
	return false
}

// forTemporal maps an error to Temporal's retryable and non-retryable. The chain is cut to its text:
// causes of providers hold nothing that a history should keep.
func forTemporal(err error) error {
	var already *temporal.ApplicationError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return context.Canceled // whatever a peer said before it was cut short
	case errors.As(err, &already):
		return already // wrapped, Temporal would not see its category and its delay
	}
	for _, k := range kinds {
		if errors.Is(err, k.sentinel) {
			return temporal.NewApplicationErrorWithOptions(capText(err.Error()), k.name, temporal.ApplicationErrorOptions{NonRetryable: k.final, NextRetryDelay: wantedAfter(err)})
		}
	}
	return temporal.NewApplicationErrorWithOptions(capText(err.Error()), TypePassing, temporal.ApplicationErrorOptions{NextRetryDelay: wantedAfter(err)})
}

// longestAskedFor bounds how long a peer may have an attempt wait: a run's end waits for it. Who is to be told is tried again for longer.
const longestAskedFor = time.Minute

// wantedAfter is after how long a peer wants to be asked again; zero where it does not say.
func wantedAfter(err error) time.Duration { return min(providers.After(err), longestAskedFor) }

// notYet answers a wait: the server asks again after the activity's retry interval, or after d when
// above zero, without an event in the history and without a complaint in the log.
func notYet(message string, d time.Duration) error {
	return temporal.NewApplicationErrorWithOptions(capText(message), TypeNotYet, temporal.ApplicationErrorOptions{
		Category: temporal.ApplicationErrorCategoryBenign, NextRetryDelay: d,
	})
}

// isNotYet tells whether an error is the answer of notYet.
func isNotYet(err error) bool {
	var told *temporal.ApplicationError
	return errors.As(err, &told) && told.Type() == TypeNotYet
}

// maxErrorText bounds what an error adds to the history.
const maxErrorText = 2048

// capText is text for the history, on one line, parts of which may come from issuers, stores and consumers.
func capText(s string) string { return outside.Line(s, maxErrorText) }

// maxInstanceText bounds what is kept of one instance's trouble: there may be thousands of them.
const maxInstanceText = 512

// trouble is an error as one instance's part of the facts.
func trouble(err error) string { return outside.Lines(err.Error(), maxInstanceText) }
