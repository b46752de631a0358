package workflows

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/internal/outside"
)

// UnmarshalJSON also notes what nobody knows in an input, for whoever wrote it by hand.
func (in *RotationInput) UnmarshalJSON(text []byte) (err error) {
	type plain RotationInput
	in.unknown, err = unknownIn(text, (*plain)(in), new(plain))
	return err
}

// UnmarshalJSON also notes what nobody knows in an input, for whoever wrote it by hand.
func (in *IncidentInput) UnmarshalJSON(text []byte) (err error) {
	type plain IncidentInput
	in.unknown, err = unknownIn(text, (*plain)(in), new(plain))
	return err
}

// unknownIn reads an input, and tells of the first field in it that this build does not know; again is of the same type.
func unknownIn(text []byte, into, again any) (unknown string, err error) {
	if err := json.Unmarshal(text, into); err != nil {
		return "", err
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(again); err != nil {
		return outside.Line(strings.TrimPrefix(err.Error(), "json: "), outside.MaxText), nil
	}
	return "", nil
}

// mistyped is why an input is not followed that a person wrote; nil for one of a workflow, which may be of a newer build.
func mistyped(ctx workflow.Context, unknown string, carried bool) error {
	if unknown == "" || carried || workflow.GetInfo(ctx).ParentWorkflowExecution != nil {
		return nil
	}
	return fmt.Errorf("the input has an %s: see how it is written, or whether this worker is older than who wrote it", unknown)
}
