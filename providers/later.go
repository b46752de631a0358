package providers

import (
	"errors"
	"time"
)

// laterError is the error of a peer that said after how long it wants to be asked again.
type laterError struct {
	error
	after time.Duration
}

func (e laterError) Unwrap() error { return e.error }

// Later adds to an error of a peer after how long it wants to be asked again.
func Later(err error, after time.Duration) error {
	if err == nil || after <= 0 {
		return err
	}
	return laterError{err, after}
}

// After is what Later added to an error; of several joined ones, to the first. Zero for nothing.
func After(err error) time.Duration {
	var later laterError
	if errors.As(err, &later) {
		return later.after
	}
	return 0
}
