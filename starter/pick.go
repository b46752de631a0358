package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/schedule"
)

// picked is a credential that a command was told to act on: as a file has it, or as it was applied.
type picked struct {
	t          *terminal
	name, file string
	sign       string
	valid      time.Duration
	// wanted is what the file has; nothing without a file.
	wanted inventory.Spec
}

// pick reads the file, if one is named, before anybody is asked.
func (t *terminal) pick(file, name, sign string, valid time.Duration) (*picked, error) {
	p := &picked{t: t, name: name, file: file, sign: sign, valid: valid}
	if file == "" {
		if sign != "" {
			return nil, usage("--sign signs what a file says: name it with -f FILE; what was applied has its signature already")
		}
		return p, nil
	}
	var err error
	p.wanted, err = t.spec(file, name)
	return p, err
}

// opened is a connection, and what is sent by it of one credential.
type opened struct {
	client.Client
	namespace  string
	spec       inventory.SignedSpec
	credential inventory.Credential
}

// open connects, and has the spec to send; within is how long ctx may last then, 0 for ever. done closes both.
func (p *picked) open(ctx context.Context, within time.Duration) (_ context.Context, o opened, done func(), err error) {
	cancel := func() {}
	if within > 0 {
		ctx, cancel = context.WithTimeout(ctx, within)
	}
	if o.Client, o.namespace, err = p.t.connect(ctx); err != nil {
		cancel()
		return ctx, o, nil, err
	}
	done = func() {
		o.Close()
		cancel()
	}
	if o.spec, o.credential, err = p.spec(ctx, o.Client, o.namespace); err != nil {
		done()
	}
	return ctx, o, done, err
}

// spec is the spec to send, and what it says. What was applied goes as it is. So does what a file says just
// the same: a newer generation would make the applied one too old for routine rotations.
func (p *picked) spec(ctx context.Context, c client.Client, namespace string) (inventory.SignedSpec, inventory.Credential, error) {
	schedules := schedule.New(c, namespace, catalog())
	if p.file == "" {
		found, err := schedules.Find(ctx, p.name)
		if errors.Is(err, schedule.ErrNotFound) {
			return found.Signed, inventory.Credential{}, exit(exitNotFound, fmt.Errorf("no applied inventory has %q: apply the one that has it, or name its file with -f FILE", p.name))
		}
		return found.Signed, found.Spec.Credential, err
	}
	applied, err := schedules.Describe(ctx, p.wanted.Inventory, p.name)
	if err != nil && !errors.Is(err, schedule.ErrNotFound) {
		return applied.Signed, inventory.Credential{}, err
	}
	if err == nil {
		p.wanted.Namespace = namespace
		digest, err := p.wanted.Digest()
		if err != nil {
			return applied.Signed, inventory.Credential{}, err
		}
		if digest == applied.Digest && p.sign == "" {
			return applied.Signed, applied.Spec.Credential, nil
		}
	}
	packed, packErr := p.t.pack(p.wanted, namespace, p.sign, p.valid)
	if err == nil && p.valid == rotateValid && p.t.output == "table" && !p.t.quiet {
		fmt.Fprintf(p.t.err, "note: what was applied of %s is older than this; apply the file too, so that routine rotations go on\n", p.name)
	}
	return packed, p.wanted.Credential, packErr
}
