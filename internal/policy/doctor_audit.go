package policy

import (
	"fmt"
	"strings"

	"github.com/keyturn/keyturn/internal/inventory"
)

func (e *examination) retention() {
	if e.i.Problems[CheckNamespace] != "" {
		e.add(CheckRetention, CheckSkipped, "it needs the namespace", "")
		return
	}
	has := inventory.Duration(e.i.Retention)
	var asked inventory.Duration
	kept := true
	for _, w := range e.i.Workers {
		asked, kept = max(asked, w.Retention), kept && w.AuditFile
	}
	update := func(d inventory.Duration) string {
		return fmt.Sprintf("run: temporal operator namespace update --namespace %s --retention %s (on Temporal Cloud: in its console)", e.i.Namespace, d)
	}
	switch {
	case asked > has:
		e.failed(CheckRetention, fmt.Sprintf("histories are kept for %s, and audit.retention of the worker configuration asks for %s", has, asked), update(asked))
	case len(e.i.Workers) > 0 && !kept && e.i.Retention < shortRetention:
		e.add(CheckRetention, CheckWarning, fmt.Sprintf("histories are kept for %s, and they are the only record: a worker writes no audit file", has),
			"set audit.file in the worker configuration, or keep histories longer; "+update(inventory.Duration(shortRetention)))
	case e.i.Retention < shortRetention:
		e.add(CheckRetention, CheckWarning, fmt.Sprintf("histories are kept for %s after a rotation has ended: what is older is in the audit file alone", has),
			"keep them for as long as somebody may ask what a rotation did; "+update(inventory.Duration(shortRetention)))
	default:
		e.ok(CheckRetention, "histories are kept for %s after a rotation has ended", has)
	}
}

// auditSink says nothing where no worker has one.
func (e *examination) auditSink() {
	var waits []string
	has := false
	for _, w := range e.i.Workers {
		has = has || w.AuditSink
		if w.AuditWaits != "" {
			waits = append(waits, w.Worker+": "+w.AuditWaits)
		}
	}
	switch {
	case len(waits) > 0:
		e.failed(CheckAuditSink, strings.Join(waits, "; "), "see that the worker's host reaches what audit.sink of the worker configuration names, and that it takes the events; no rotation waits for it, and nothing is lost while the audit file and the one beside it stay")
	case has:
		e.ok(CheckAuditSink, "audit events are handed over")
	}
}
