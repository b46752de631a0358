package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/workflows"
)

// signFlag adds --sign to a command.
func signFlag(cmd *cobra.Command, key *string) {
	cmd.Flags().StringVar(key, "sign", "", `sign with this SSH key: a private key file, a .pub file whose key the agent has, or "agent"`)
}

// planValid is how long a spec that is signed for a dry run could begin a rotation; rotateValid leaves time
// for a sign-off.
const (
	planValid   = 15 * time.Minute
	rotateValid = 7 * 24 * time.Hour
)

// openKey opens the key of --sign, and asks for its passphrase on a terminal.
func (t *terminal) openKey(name string) (ssh.Signer, func(), error) {
	key, done, err := signed.OpenKey(name, func(file string) ([]byte, error) {
		in, ok := t.in.(*os.File)
		if !ok || !term.IsTerminal(int(in.Fd())) {
			return nil, errors.New("it has a passphrase, and there is no terminal to ask for it: use the SSH agent (ssh-add), and name the .pub file")
		}
		fmt.Fprintf(t.err, "Passphrase of %s: ", file)
		defer fmt.Fprintln(t.err)
		return term.ReadPassword(int(in.Fd()))
	})
	if err != nil {
		return nil, nil, exit(exitUsage, err)
	}
	return key, done, nil
}

// pack makes a spec ready to travel to a namespace: signed when a key is named. A rotation may begin by it
// for as long as valid says.
func (t *terminal) pack(spec inventory.Spec, namespace, key string, valid time.Duration) (inventory.SignedSpec, error) {
	spec.Namespace = namespace
	if key != "" {
		spec.NotAfter = time.Now().Add(valid).UTC().Truncate(time.Second)
	}
	packed, err := inventory.NewSpec(spec)
	if err != nil || key == "" {
		return packed, err
	}
	with, done, err := t.openKey(key)
	if err != nil {
		return packed, err
	}
	defer done()
	return packed.Sign(with)
}

// signRequest makes a decision one that is signed, bound to where the rotation stands now.
func (t *terminal) signRequest(req policy.Request, action policy.Action, key, namespace string, s workflows.Status, run string) (policy.Request, error) {
	with, done, err := t.openKey(key)
	if err != nil {
		return req, err
	}
	defer done()
	body := policy.SignedRequest{
		Schema: policy.RequestSchema, Action: action, Reason: req.Reason, Extension: req.Extension,
		BreakGlass: req.BreakGlass, Nonce: req.ID, SignedAt: time.Now().UTC(),
		Bound: policy.Bound{
			Namespace: namespace, Workflow: workflows.WorkflowID(s.Credential), Run: run, Rotation: s.Rotation,
			Gate: req.Gate, Evidence: req.Evidence, Retiring: s.Retiring.KeyID, Incoming: s.Incoming.KeyID,
		},
	}
	envelope, err := signed.Sign(signed.Decision, body, with)
	if err != nil {
		return req, err
	}
	return policy.Request{ID: req.ID, Signed: &envelope}, nil
}

// resign signs the spec that a running rotation follows anew, for a rotation that is held since its signer
// is not trusted any more. It signs what the file says, and nothing else that the namespace may claim.
func (t *terminal) resign(ctx context.Context, c client.Client, ours inventory.Spec, namespace, key string) (policy.Verdict, error) {
	var v policy.Verdict
	name := ours.Credential.Name
	asking, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	tellOfSilentRun(asking, c, workflows.WorkflowID(name), t.warn)
	value, err := c.QueryWorkflow(asking, workflows.WorkflowID(name), "", workflows.SpecName)
	if trouble(err) != "" {
		return v, silent(name, err)
	}
	if err != nil {
		return v, fmt.Errorf("asking the rotation of %s for its spec: %w", name, err)
	}
	var running inventory.SignedSpec
	if err := value.Get(&running); err != nil {
		return v, fmt.Errorf("reading the spec of the running rotation: %w", err)
	}
	theirs, err := inventory.ParseSpec(running.Body, catalog())
	if err != nil {
		return v, fmt.Errorf("reading the spec of the running rotation: %w", err)
	}
	same, err := equal(theirs.Credential, ours.Credential)
	if err != nil {
		return v, err
	}
	if !same || theirs.Inventory != ours.Inventory || theirs.Namespace != namespace || theirs.Generation > ours.Generation {
		return v, exit(exitRefused, fmt.Errorf("the rotation of %s that runs follows another spec than this file has, so it is not signed; see whether it can be turned back, and how, with: keyturn status %s", name, name))
	}
	with, done, err := t.openKey(key)
	if err != nil {
		return v, err
	}
	defer done()
	again, err := running.Sign(with)
	if err != nil {
		return v, err
	}
	return update(ctx, c, name, workflows.ResignName, "", again)
}

// equal compares what two credentials say, in the form in which they are signed.
func equal(a, b inventory.Credential) (bool, error) {
	x, err := inventory.NewSpec(inventory.Spec{Credential: a})
	if err != nil {
		return false, err
	}
	y, err := inventory.NewSpec(inventory.Spec{Credential: b})
	return reflect.DeepEqual(x, y), err
}
