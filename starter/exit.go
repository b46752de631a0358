package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"

	"github.com/keyturn/keyturn/workflows"
)

// The exit codes, stable for scripts.
const (
	exitDone       = 0 // what was asked is done; a rotation that was waited for completed, with debt or without
	exitFailed     = 1 // anything that has no code of its own; also a check of doctor, or a difference that inventory --verify found
	exitUsage      = 2 // the command line, a file or a key for signing is wrong
	exitRefused    = 3 // a policy, a worker or the running rotation says no
	exitNotFound   = 4 // there is no such credential, rotation or report
	exitTimedOut   = 5 // nobody answered in time; what was begun goes on
	exitRolledBack = 6 // the rotation that was waited for turned back
)

const exitCodes = `Exit codes: 0 done, 1 failed, 2 usage or invalid input, 3 refused by policy, 4 not found,
5 timed out waiting, 6 rolled back.`

// exitError ends the program with a code. An error without text was already shown.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// words are what a person reads: what keeps Temporal from answering has ours in place of the network's.
func (e *exitError) words() string {
	var answer serviceerror.ServiceError
	text, kept := e.Error(), trouble(e.err)
	switch {
	case kept == "" || !errors.As(e.err, &answer):
		return text
	case answer.Error() == "":
		return text + kept
	}
	return strings.ReplaceAll(text, answer.Error(), kept)
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int, err error) error { return &exitError{code: code, err: err} }

func usage(format string, args ...any) error { return exit(exitUsage, fmt.Errorf(format, args...)) }

// classify gives an error of the server its code.
func classify(err error) int {
	var missing *serviceerror.NotFound
	switch {
	case errors.As(err, &missing):
		return exitNotFound
	case trouble(err) == troubleLate:
		return exitTimedOut
	}
	return exitFailed
}

// What keeps Temporal or a worker from answering.
const (
	troubleLate = "there was no answer in time"
	troubleAway = "Temporal does not answer, or starts anew"
	troubleBusy = "Temporal has too much to do"
)

// trouble names what keeps somebody from answering and may pass, in words that do not come from the network; "" for an answer.
func trouble(err error) string {
	var failed *temporal.WorkflowExecutionError
	if err == nil || errors.As(err, &failed) {
		return ""
	}
	switch serviceerror.ToStatus(err).Code() {
	case codes.DeadlineExceeded:
		return troubleLate
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.Aborted:
		return troubleAway
	case codes.ResourceExhausted:
		return troubleBusy
	}
	return ""
}

// outcomeCode is the code of a rotation that was waited for.
func outcomeCode(o workflows.Outcome) int {
	switch o {
	case workflows.Completed, workflows.CompletedWithDebt:
		return exitDone
	case workflows.Refused:
		return exitRefused
	case workflows.RolledBack:
		return exitRolledBack
	}
	return exitFailed
}

// result waits for the report of a rotation. A failed one has it in its error.
func result(ctx context.Context, run client.WorkflowRun) (workflows.Report, error) {
	var report workflows.Report
	err := run.Get(ctx, &report)
	var ended *temporal.ApplicationError
	switch {
	case err == nil:
		return report, nil
	case errors.As(err, &ended) && ended.Type() == workflows.FailedType && ended.Details(&report) == nil:
		return report, nil
	case trouble(err) == troubleLate:
		return report, exit(exitTimedOut, errors.New("the rotation goes on; it did not end in the time that --timeout gave"))
	}
	return report, fmt.Errorf("waiting for the rotation: %w", err)
}

// noAnswer explains a wait that ended without an answer. What failed meanwhile is why, when it is known; else it may be a worker.
func noAnswer(doing string, failing *retrying, err error) error {
	var refused *temporal.ApplicationError
	var ended *temporal.TimeoutError
	switch {
	case errors.As(err, &refused):
		return exit(exitRefused, fmt.Errorf("%s: %s", doing, refused.Message()))
	case !errors.As(err, &ended) && trouble(err) != troubleLate:
		return fmt.Errorf("%s: %w", doing, err)
	case failing != nil:
		return exit(exitTimedOut, fmt.Errorf("%s: no answer in time; the last failure was of %s", doing, failing))
	}
	return exit(exitTimedOut, fmt.Errorf("%s: no answer in time; is a worker running, and is its build current? See the run in the Web UI", doing))
}
