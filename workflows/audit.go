package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
)

// AuditID is the ID of what reads an audit file, before what tells one from another.
const AuditID = "audit"

// AuditInput asks for the record of a credential, or of one of its rotations alone.
type AuditInput = activities.AuditInput

// AuditAnswer is what the audit file of the worker has that answered.
type AuditAnswer = activities.AuditAnswer

var readingAudit = step{summary: "read the audit file", attempt: time.Minute, total: time.Minute, changesNothing: true, reports: true}

// Audit tells what the audit file of one worker, whichever answers, has of a credential. It changes nothing.
func Audit(ctx workflow.Context, in AuditInput) (answer AuditAnswer, err error) {
	err = readingAudit.start(ctx, TaskQueue, act.ReadAudit, in).Get(ctx, &answer)
	return answer, err
}
