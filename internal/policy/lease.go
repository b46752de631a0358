package policy

import (
	"cmp"
	"time"

	"github.com/keyturn/keyturn/internal/key"
)

// MayHold judges whether a run may take the lease of a credential, which it does not have, from who holds it: stood is for how
// long the revision that it stands in was seen, without a change. Of one workflow ID Temporal runs one at a time, so that
// the next run takes it at once. Anybody else's is over when it was not renewed for its whole term.
func MayHold(held *key.Lease, run key.Lease, stood time.Duration) Decision {
	switch {
	case held == nil:
		return allow("nobody holds it")
	case held.Namespace == run.Namespace && held.Workflow == run.Workflow:
		return allow("an earlier run holds it")
	case stood >= cmp.Or(held.Term, key.LeaseTerm):
		return allow("%s of namespace %q held it, and did not renew it for %s", held.Workflow, held.Namespace, stood)
	}
	return refuse(Held, "%s of namespace %q holds the credential: run %q of rotation %q. It is free when that ends; if that is dead, %s after a worker first saw it so",
		held.Workflow, held.Namespace, held.Run, held.Rotation, cmp.Or(held.Term, key.LeaseTerm))
}
