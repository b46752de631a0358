// Package namespace has what keyturn needs of a Temporal namespace before it can run there: its search
// attributes, and a current version of its worker deployment.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/workflows"
)

// Deployment is the name of the worker deployment.
const Deployment = "keyturn"

// ErrNotSetUp: the namespace lacks something that setup makes.
var ErrNotSetUp = errors.New("the namespace is not set up")

// Attributes are the search attributes, by name.
func Attributes() map[string]enumspb.IndexedValueType {
	attributes := map[string]enumspb.IndexedValueType{}
	for _, key := range []temporal.SearchAttributeKey{
		workflows.AttributeCredential, workflows.AttributeOwner, workflows.AttributeEnvironment, workflows.AttributeRisk,
		workflows.AttributeIssuer, workflows.AttributePhase, workflows.AttributeOutcome, workflows.AttributeLabels,
		workflows.AttributeRotateBy, workflows.AttributeIndex,
	} {
		attributes[key.GetName()] = key.GetValueType()
	}
	return attributes
}

// missing lists the search attributes that the namespace lacks. One that has another type is an error:
// adding it again would be answered with success and change nothing.
func missing(ctx context.Context, c client.Client, namespace string) ([]string, error) {
	lacks, wrong, err := compare(ctx, c, namespace)
	if err == nil && len(wrong) > 0 {
		err = fmt.Errorf("%w: %s; remove it with the temporal CLI and run setup again", ErrNotSetUp, strings.Join(wrong, "; "))
	}
	return lacks, err
}

// compare lists the search attributes that the namespace lacks, and says of those with another type so.
func compare(ctx context.Context, c client.Client, namespace string) (lacks, wrong []string, err error) {
	have, err := patience.Call(ctx, func() (*operatorservice.ListSearchAttributesResponse, error) {
		return c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listing search attributes of namespace %q: %w", namespace, err)
	}
	for _, name := range slices.Sorted(maps.Keys(Attributes())) {
		want := Attributes()[name]
		switch is, ok := have.GetCustomAttributes()[name]; {
		case !ok:
			lacks = append(lacks, name)
		case is != want:
			wrong = append(wrong, fmt.Sprintf("search attribute %s has type %s instead of %s", name, is, want))
		}
	}
	return lacks, wrong, nil
}

// Check returns ErrNotSetUp when a search attribute is missing: a workflow that sets one which does not
// exist blocks, so that the worker refuses to start.
func Check(ctx context.Context, c client.Client, namespace string) error {
	lacks, err := missing(ctx, c, namespace)
	if err != nil {
		return err
	}
	if len(lacks) > 0 {
		return fmt.Errorf("%w: search attributes %s are missing in namespace %q; run: keyturn setup", ErrNotSetUp, strings.Join(lacks, ", "), namespace)
	}
	return nil
}

// Register adds the search attributes that are missing and waits until they can be used. It returns the
// names of those it added.
func Register(ctx context.Context, c client.Client, namespace string) ([]string, error) {
	lacks, err := missing(ctx, c, namespace)
	if err != nil || len(lacks) == 0 {
		return nil, err
	}
	add := map[string]enumspb.IndexedValueType{}
	for _, name := range lacks {
		add[name] = Attributes()[name]
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: add})
	var exists *serviceerror.AlreadyExists
	if err != nil && !errors.As(err, &exists) {
		var named []string
		for _, name := range lacks {
			named = append(named, fmt.Sprintf("%s (%s)", name, add[name]))
		}
		return nil, fmt.Errorf("adding search attributes to namespace %q: %w; missing are %s: where only the cluster's administrators may add them, ask them", namespace, err, strings.Join(named, ", "))
	}
	for {
		err := Check(ctx, c, namespace)
		if err == nil {
			return lacks, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Current returns the build ID that new workflow tasks go to, "" when none was set yet.
func Current(ctx context.Context, c client.Client) (string, error) {
	id, _, err := current(ctx, c)
	return id, err
}

func current(ctx context.Context, c client.Client) (string, []byte, error) {
	d, err := patience.Call(ctx, func() (client.WorkerDeploymentDescribeResponse, error) {
		return c.WorkerDeploymentClient().GetHandle(Deployment).Describe(ctx, client.WorkerDeploymentDescribeOptions{})
	})
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("describing worker deployment %q: %w", Deployment, err)
	}
	if v := d.Info.RoutingConfig.CurrentVersion; v != nil {
		return v.BuildID, d.ConflictToken, nil
	}
	return "", d.ConflictToken, nil
}

// pollersWithin is how long MakeCurrent waits for the build's workers to poll all the queues of the build before.
const pollersWithin = 20 * time.Second

// MakeCurrent sends new and waiting workflow tasks to the build from now on. It works before any of its
// workers exists. Temporal refuses a build whose workers poll fewer queues than those of the current one: since a
// worker that has just started polls them one after the other, that is tried again for a while. A current build
// that somebody else made meanwhile is not overwritten.
func MakeCurrent(ctx context.Context, c client.Client, buildID string) error {
	was, token, err := current(ctx, c)
	if err != nil {
		return err
	}
	for begun := time.Now(); ; {
		_, err := patience.Call(ctx, func() (struct{}, error) { return struct{}{}, set(ctx, c, buildID, token) })
		var refused *serviceerror.FailedPrecondition
		if !errors.As(err, &refused) || time.Since(begun) > pollersWithin {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Millisecond):
		}
		is, again, lost := current(ctx, c)
		switch {
		case lost == nil && is == buildID: // by a try whose answer was lost
			return nil
		case lost != nil || is != was:
			return err
		}
		token = again
	}
}

// MakeFirstCurrent makes the build current when none is: with no current version nothing would run. It
// never overwrites one, not even one that was set meanwhile, since of two workers that start the last
// would win. It returns the build that is current then.
func MakeFirstCurrent(ctx context.Context, c client.Client, buildID string) (string, error) {
	id, token, err := current(ctx, c)
	if err != nil || id != "" {
		return id, err
	}
	_, err = patience.Call(ctx, func() (struct{}, error) { return struct{}{}, set(ctx, c, buildID, token) })
	var changed *serviceerror.FailedPrecondition
	if errors.As(err, &changed) { // by somebody else, or by a try whose answer was lost
		return Current(ctx, c)
	}
	return buildID, err
}

func set(ctx context.Context, c client.Client, buildID string, token []byte) error {
	_, err := c.WorkerDeploymentClient().GetHandle(Deployment).SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{
		BuildID: buildID, ConflictToken: token, AllowNoPollers: true,
	})
	if err != nil {
		return fmt.Errorf("making build %q current: %w", buildID, err)
	}
	return nil
}
