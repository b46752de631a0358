package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/inventory"
)

// VerifyInput names credentials to look up; MaxVerify of them at most.
type VerifyInput struct {
	Credentials []string `json:"credentials"`
}

// MaxVerify bounds how many credentials one Verify looks up, so that its history stays short.
const MaxVerify = 100

// Verified is what issuer and store say of one credential.
type Verified struct {
	Credential string          `json:"credential"`
	State      inventory.State `json:"state"`
	// Problem is why it could not be looked up; empty when it was.
	Problem string `json:"problem,omitempty"`
}

// verifiedAtOnce bounds the fan-out.
const verifiedAtOnce = 10

// Verify looks up what issuers and stores say of credentials, and gives their Schedules a copy. It changes
// nothing else. The answers are in the order of the input.
func Verify(ctx workflow.Context, in VerifyInput) ([]Verified, error) {
	names := in.Credentials[:min(len(in.Credentials), MaxVerify)]
	all := make([]Verified, len(names))
	turn := workflow.NewSemaphore(ctx, verifiedAtOnce)
	group := workflow.NewWaitGroup(ctx)
	for i, name := range names {
		all[i].Credential = name
		if err := turn.Acquire(ctx, 1); err != nil {
			return nil, err
		}
		group.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer group.Done()
			defer turn.Release(1)
			if err := lookUp(ctx, name, &all[i].State); err != nil {
				all[i].Problem = clip(cause(err))
			}
		})
	}
	group.Wait(ctx)
	return all, ctx.Err()
}

func lookUp(ctx workflow.Context, name string, state *inventory.State) error {
	signed, err := resolve(ctx, inventory.SignedSpec{}, name)
	if err != nil {
		return err
	}
	spec, err := signed.Peek()
	if err != nil {
		return err
	}
	var accepted activities.Accepted
	if err := accepting.start(ctx, TaskQueue, act.Accept, signed).Get(ctx, &accepted); err != nil {
		return err
	}
	subject := activities.Rotation{Spec: signed, ID: workflow.GetInfo(ctx).FirstRunID}
	return lookingUp.start(ctx, issuerQueue(spec.Credential, accepted), act.LookUp, subject).Get(ctx, state)
}
