// Command worker runs keyturn's workflows and activities against a Temporal namespace.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/providers"
)

// The exit codes are those of keyturn.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2 // the command line or the worker configuration is wrong
	exitRefused  = 3 // by policy, bounds or trust: of import alone, as the next one
	exitNotFound = 4
	exitTimedOut = 5 // Temporal did not answer in time
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil || errors.Is(err, context.Canceled) {
		return exitDone
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(errOut, "keyturn-worker: "+outside.Text(line, 4*outside.MaxText))
	}
	return codeOf(err)
}

// refusals are the errors of an import that what somebody said or configured forbids.
var refusals = []error{activities.ErrRefused, activities.ErrHeld, activities.ErrOutOfBounds, activities.ErrUntrusted, activities.ErrSpec, providers.ErrDenied, providers.ErrConflict}

func codeOf(err error) int {
	var coded *codedError
	switch {
	case errors.As(err, &coded):
		return coded.code
	case slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) }):
		return exitRefused
	case errors.Is(err, providers.ErrInvalid):
		return exitUsage
	case serviceerror.ToStatus(err).Code() == codes.DeadlineExceeded:
		return exitTimedOut
	}
	return exitFailed
}

// codedError knows its exit code.
type codedError struct {
	error
	code int
}

func (e *codedError) Unwrap() error { return e.error }

// usage is an error of who started the worker: its command line or its configuration is wrong.
func usage(err error) error { return &codedError{err, exitUsage} }
