package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/providers"
)

// Sentinels of this package; final, like most of package providers.
var (
	// ErrSpec: the spec is not one that this worker accepts.
	ErrSpec = errors.New("spec refused")
	// ErrAmbiguous: facts admit two readings, and guessing could destroy a key that is in use.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrKeyNotWorking: the incoming key was refused for longer than the issuer needs to settle.
	ErrKeyNotWorking = errors.New("the incoming key does not work")
	// ErrStagedKeyDead: the version that this mint staged holds no live key.
	ErrStagedKeyDead = errors.New("the staged key is not live")
)

// The types of Temporal application errors, stable for those who read histories.
const (
	TypeSpec        = "SpecRefused"
	TypeDenied      = "Denied"
	TypeInvalid     = "Invalid"
	TypeNotFound    = "NotFound"
	TypeConflict    = "Conflict"
	TypeSlotsFull   = "SlotsFull"
	TypeAmbiguous   = "Ambiguous"
	TypeUnsupported = "Unsupported"
	TypeKeyRefused  = "KeyRefused"
	TypeNotWorking  = "KeyNotWorking"
	TypeStagedDead  = "StagedKeyDead"
	TypeThrottled   = "Throttled"
	TypePending     = "Pending"
	TypeNotYet      = "NotYet"
	TypePassing     = "Passing"
)

// kinds is the one place that decides which errors Temporal retries. The first match counts; an error
// that matches none is passing trouble.
var kinds = []struct {
	sentinel error
	name     string
	final    bool
}{
	{ErrSpec, TypeSpec, true},
	{ErrAmbiguous, TypeAmbiguous, true},
	{ErrKeyNotWorking, TypeNotWorking, true},
	{ErrStagedKeyDead, TypeStagedDead, true},
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
	case err == nil, errors.As(err, &already), errors.Is(err, context.Canceled):
		return err
	}
	for _, k := range kinds {
		if errors.Is(err, k.sentinel) {
			return temporal.NewApplicationErrorWithOptions(capText(err.Error()), k.name, temporal.ApplicationErrorOptions{NonRetryable: k.final})
		}
	}
	return temporal.NewApplicationErrorWithOptions(capText(err.Error()), TypePassing, temporal.ApplicationErrorOptions{})
}

// notYet answers a wait: the server asks again after the activity's retry interval, or after d when
// above zero, without an event in the history and without a complaint in the log.
func notYet(message string, d time.Duration) error {
	return temporal.NewApplicationErrorWithOptions(capText(message), TypeNotYet, temporal.ApplicationErrorOptions{
		Category: temporal.ApplicationErrorCategoryBenign, NextRetryDelay: d,
	})
}

// maxErrorText bounds what an error adds to the history.
const maxErrorText = 2048

func capText(s string) string {
	if len(s) > maxErrorText {
		return s[:maxErrorText] + "…"
	}
	return s
}
