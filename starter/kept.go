package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/schedule"
	"github.com/keyturn/keyturn/workflows"
)

// specOf asks a rotation that runs for the spec that it follows; nothing where it does not say.
func specOf(ctx context.Context, c client.Client, credential string) (signed inventory.SignedSpec) {
	if value, err := c.QueryWorkflow(ctx, workflows.WorkflowID(credential), "", workflows.SpecName); err == nil {
		_ = value.Get(&signed)
	}
	return signed
}

// sayKept adds a note to the status of a rotation that runs when another spec was applied since it began. It is for display: where
// nobody answers there is none.
func (s *standing) sayKept(ctx context.Context, c client.Client, follows inventory.SignedSpec) {
	own, err := follows.Peek()
	if err != nil {
		return
	}
	applied, err := schedule.New(c, own.Namespace, catalog()).Describe(ctx, own.Inventory, own.Credential.Name)
	if err != nil {
		return
	}
	if note := kept(own, applied.Spec); note != "" {
		s.Notices = slices.Insert(slices.Clone(s.Notices), 0, note)
	}
}

// mostKept is how many differences a note names.
const mostKept = 4

// kept says what a rotation by its own spec does not go by yet: one that was applied later and says something else. It is empty where there is none.
func kept(own, applied inventory.Spec) string {
	fields, err := differences(own.Credential, applied.Credential)
	if err != nil || len(fields) == 0 || applied.Generation <= own.Generation {
		return ""
	}
	var list []string
	for _, f := range fields[:min(len(fields), mostKept)] {
		list = append(list, f.Field+" "+f.change())
	}
	if more := len(fields) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("it keeps the spec that it began with: another one was applied %s, and counts from the next rotation on (%s)",
		clock(time.UnixMilli(applied.Generation)), outside.Text(strings.Join(list, "; "), outside.MaxText))
}
