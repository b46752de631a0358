package activities_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// unfit is a target of which the consumer would not get a key as it was minted.
type unfit struct{ providers.Target }

func (unfit) Fits(secret.Bundle) error {
	return fmt.Errorf("%w: the field %q ends with the end of a line", providers.ErrInvalid, secret.ValueField)
}

// whole is a target that wants another member of the secret beside the key.
type whole struct{ providers.Target }

func (whole) Fits(b secret.Bundle) error {
	if v, has := b.Field("endpoint"); !has || v.Len() == 0 {
		return fmt.Errorf("%w: the key has no field %q", providers.ErrInvalid, "endpoint")
	}
	return nil
}

// What the secret has beside the key goes along with each, and is there when it is judged whether that fits.
func TestAKeyIsJudgedWithWhatTheSecretHasBesideIt(t *testing.T) {
	t.Parallel()
	c := reached(t)
	c.world.Foreign("payments-api", secret.NewBundle(map[string]secret.Value{"endpoint": secret.New([]byte("https://edge.internal"))}))
	c.do.Descriptors = []providers.Descriptor{c.world.Descriptor()}
	open := c.do.Descriptors[0].Target.Open
	c.do.Descriptors[0].Target.Open = func(e providers.Environment, account, config any) (providers.Target, error) {
		target, err := open(e, account, config)
		return whole{target}, err
	}
	c.execute("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, &c.incoming)
}

// A key that a consumer would not get as it was minted is staged nowhere, and ended by the next rotation.
func TestAKeyThatDoesNotFitIsGivenToNobody(t *testing.T) {
	t.Parallel()
	c := reached(t)
	whole := c.do.Descriptors
	c.do.Descriptors = []providers.Descriptor{c.world.Descriptor()}
	open := c.do.Descriptors[0].Target.Open
	c.do.Descriptors[0].Target.Open = func(e providers.Environment, account, config any) (providers.Target, error) {
		target, err := open(e, account, config)
		return unfit{target}, err
	}
	err := c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 5)
	require.ErrorContains(t, err, `payments-api-key-2, which was minted just now, was given to nobody, and the next rotation destroys it: consumer canary: `)
	var failed *temporal.ApplicationError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, activities.TypeInvalid, failed.Type(), "no repetition makes it fit")
	assert.Contains(t, c.keys(), "payments-api-key-2 active")
	assert.Len(t, c.versions(), 1)

	c.do.Descriptors = whole
	next := c.subject()
	next.ID = "the next rotation"
	c.executeOverLag("Issue", activities.IssueInput{Rotation: next, Ordinal: 1}, &c.incoming)
	assert.NotContains(t, c.keys(), "payments-api-key-2 active")
}
