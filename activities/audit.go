package activities

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/outside"
)

// AuditInput asks for the record of a credential, or of one of its rotations alone.
type AuditInput struct {
	Credential string `json:"credential"`
	Rotation   string `json:"rotation,omitempty"`
}

// AuditAnswer is what the audit file of one worker has.
type AuditAnswer struct {
	// Worker is the one that answered.
	Worker string `json:"worker"`
	// Recorded: its configuration names an audit file.
	Recorded bool `json:"recorded"`
	// Problem is why the file could not be read to its end.
	Problem string `json:"problem,omitempty"`
	audit.Excerpt
}

// maxRecord bounds, in bytes, what one answer has: well below what Temporal lets pass (2 MB).
const maxRecord = 1 << 20

// ReadAudit tells what this worker's audit file has of a credential. It changes nothing.
func (a *Activities) ReadAudit(_ context.Context, in AuditInput) (AuditAnswer, error) {
	answer := AuditAnswer{Worker: a.Worker, Excerpt: audit.Excerpt{Events: []audit.Event{}}}
	if in.Credential == "" {
		return answer, forTemporal(fmt.Errorf("reading the audit file: %w: name a credential", ErrSpec))
	}
	file := a.Config().Audit.File
	if file == "" {
		return answer, nil
	}
	answer.Recorded = true
	var err error
	if answer.Excerpt, err = audit.ReadOf(file, in.Credential, in.Rotation, maxRecord); err != nil {
		answer.Problem = outside.Text(err.Error(), outside.MaxText)
	}
	return answer, nil
}
