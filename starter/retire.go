package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"

	"github.com/keyturn/keyturn/workflows"
)

func newRetire(t *terminal) *cobra.Command {
	var file, keyID, reason, as, sign string
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "retire CREDENTIAL", Short: "Ends one leftover key of a credential, on evidence and approval", Args: oneCredential,
		Long: `Ends one leftover key of a credential: a retired one that is still alive, one that the spec names under adopt beside the
current one, or one of a rotation that did not end. It mints and delivers nothing. It waits for the evidence that nobody needs
the key, asks for the approvals of the revoke gate, disables the key where the issuer can, watches, destroys it, and sees that
it is refused. The key that is CURRENT, one that a consumer states, one that is exposed, and one that is not ours are refused,
with what to do instead. "keyturn plan" and "keyturn sweep" name the keys that are left over.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case keyID == "":
				return usage("say which key, with --key ID: keyturn plan %s and keyturn sweep name those that are left over", args[0])
			case reason == "":
				return usage("say why, with --reason")
			}
			pick, err := t.pick(file, args[0], sign, rotateValid)
			if err != nil {
				return err
			}
			ctx, c, done, err := pick.open(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			defer done()
			run, err := begin(ctx, c, c.credential, fmt.Sprintf("end of key %s of %s", plain(keyID), args[0]),
				workflows.RotationInput{Spec: c.spec, Retire: keyID, Reason: reason, RequestedBy: as})
			var running *serviceerror.WorkflowExecutionAlreadyStarted
			if errors.As(err, &running) {
				return exit(exitRefused, fmt.Errorf("nothing was begun: a rotation of %[1]s is running (run %[2]s), and may end key %[3]s itself; see it, and whether it can be turned back, with: keyturn status %[1]s; "+
					"retire the key once that has ended", args[0], running.RunId, plain(keyID)))
			}
			if err != nil {
				return fmt.Errorf("starting the end of key %s: %w", plain(keyID), err)
			}
			return t.follow(ctx, c, run, args[0], fmt.Sprintf("The end of key %s of %s is asked for; nothing is minted or delivered.", plain(keyID), args[0]), wait)
		},
	}
	f := cmd.Flags()
	f.StringVar(&keyID, "key", "", "the key to end, by the ID that the issuer gives it")
	f.StringVar(&reason, "reason", "", "why, for the record")
	f.StringVarP(&file, "file", "f", "", "an inventory file that has the credential (default what was applied)")
	f.StringVar(&as, "as", me(), "who asks, for the record")
	signFlag(cmd, &sign)
	f.BoolVar(&wait, "wait", false, "wait for the end and report it")
	f.DurationVar(&timeout, "timeout", 0, "give up waiting after this long; the run goes on (0: never)")
	return cmd
}
