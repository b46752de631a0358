package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

func TestATimeOutHasItsExitCode(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"of the context":      context.DeadlineExceeded,
		"as the server says":  serviceerror.NewDeadlineExceeded("context deadline exceeded"),
		"as gRPC says":        grpcstatus.Error(codes.DeadlineExceeded, "context deadline exceeded"),
		"of a dry run itself": temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_START_TO_CLOSE, nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrapped := fmt.Errorf("asking: %w", err)
			assert.Equal(t, exitTimedOut, code(noAnswer("inspecting payments-api", nil, wrapped)))
			if name != "of a dry run itself" {
				assert.Equal(t, exitTimedOut, classify(wrapped))
			}
		})
	}
	assert.Equal(t, exitNotFound, classify(serviceerror.NewNotFound("none")))
	assert.Equal(t, exitFailed, classify(errors.New("else")))
	assert.Equal(t, exitRefused, code(noAnswer("inspecting payments-api", nil, temporal.NewApplicationError("no", "Denied"))))
}

func TestNobodyReadsWhatTheNetworkSays(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		err  error
		want string
	}{
		"a server that went away": {
			serviceerror.NewUnavailable(`connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:7233: connect: connection refused"`),
			"listing rotations: Temporal does not answer, or starts anew",
		},
		"one that says nothing": {serviceerror.NewUnavailable(""), "listing rotations: Temporal does not answer, or starts anew"},
		"a time-out":            {serviceerror.NewDeadlineExceeded("context deadline exceeded"), "listing rotations: there was no answer in time"},
		"what Temporal says":    {serviceerror.NewNotFound("namespace x is not found"), "listing rotations: namespace x is not found"},
		"anything else":         {errors.New("no such file"), "listing rotations: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, x.want, (&exitError{exitFailed, fmt.Errorf("listing rotations: %w", x.err)}).words())
		})
	}
	assert.Empty(t, (&exitError{code: exitFailed}).words())
}
