package activities_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/memory"
)

// An activity trusts nothing that comes through Temporal: a spec that it may not act on is refused before
// anything is changed.
func TestSpecsThatAreNotActedOn(t *testing.T) {
	t.Parallel()
	rewrite := func(c *crashCase, change func(cred map[string]any)) {
		var spec map[string]any
		require.NoError(c.t, json.Unmarshal(c.spec.Body, &spec))
		change(spec["credential"].(map[string]any))
		var err error
		c.spec.Body, err = json.Marshal(spec)
		require.NoError(c.t, err)
	}
	cases := map[string]struct {
		prepare func(*crashCase)
		want    string
	}{
		"a signed spec, whose signature is none":                 {func(c *crashCase) { c.spec.Signature = "-----BEGIN SSH SIGNATURE-----" }, activities.TypeSpec},
		"an unsigned spec, where the worker does not allow them": {func(c *crashCase) { c.do.AllowUnsigned = false }, activities.TypeSpec},
		"a spec of another credential in this rotation": {func(c *crashCase) {
			rewrite(c, func(cred map[string]any) { cred["name"] = "payments-other" })
		}, activities.TypeSpec},
		"a spec with a field that nobody knows": {func(c *crashCase) {
			rewrite(c, func(cred map[string]any) { cred["sudo"] = true })
		}, activities.TypeSpec},
		"a principal out of bounds": {func(c *crashCase) {
			rewrite(c, func(cred map[string]any) { cred["issuer"].(map[string]any)["principal"] = "admin" })
		}, activities.TypeOutOfBounds},
		"a secret path out of bounds": {func(c *crashCase) {
			rewrite(c, func(cred map[string]any) { cred["store"].(map[string]any)["path"] = "other-teams" })
		}, activities.TypeOutOfBounds},
		"an environment that the worker does not know": {func(c *crashCase) {
			rewrite(c, func(cred map[string]any) { cred["environment"] = "production" })
		}, activities.TypeOutOfBounds},
		"an account that the worker does not have": {func(c *crashCase) {
			rewrite(c, func(cred map[string]any) { cred["issuer"].(map[string]any)["account"] = "other" })
		}, activities.TypeOutOfBounds},
		"something that is no spec at all": {func(c *crashCase) { c.spec.Body = json.RawMessage(`[]`) }, activities.TypeSpec},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			tc.prepare(c)
			before := len(c.world.Ledger())
			err := c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 3)
			var refused *temporal.ApplicationError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, tc.want, refused.Type(), "%v", err)
			assert.True(t, refused.NonRetryable(), "waiting cannot mend it")
			assert.Len(t, c.world.Ledger(), before, "nothing was changed")
		})
	}
}

func TestASpecOlderThanTheLastIssueIsRefused(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	_, err := c.world.Store("payments-api").PutMetadata(t.Context(), key.Metadata{Generation: 101})
	require.NoError(t, err)
	err = c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 3)
	require.ErrorContains(t, err, "generation")
	assert.Len(t, c.world.Happened(memory.OpIssue), 1, "only the key from before")
}

// A provider's error is retried or not by its sentinel, and by nothing else.
func TestWhichErrorsAreRetried(t *testing.T) {
	t.Parallel()
	cases := []struct {
		err   error
		typ   string
		final bool
	}{
		{providers.ErrThrottled, activities.TypeThrottled, false},
		{providers.ErrPending, activities.TypePending, false},
		{providers.ErrDenied, activities.TypeDenied, true},
		{providers.ErrInvalid, activities.TypeInvalid, true},
		{providers.ErrUnsupported, activities.TypeUnsupported, true},
		{providers.ErrSlotsFull, activities.TypeSlotsFull, true},
		{providers.ErrConflict, activities.TypeConflict, true},
		{providers.ErrNotFound, activities.TypeNotFound, true},
		{errors.New("connection reset"), activities.TypePassing, false},
		{errors.New(strings.Repeat("long ", 10_000)), activities.TypePassing, false},
	}
	for _, tc := range cases {
		t.Run(fmt.Sprintf("%.40s", tc.err), func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.world.Fail(memory.OpIssue, tc.err, 1)
			err := c.attempt("Issue", activities.IssueInput{Rotation: c.subject(), Ordinal: 1}, nil, 1)
			var mapped *temporal.ApplicationError
			require.ErrorAs(t, err, &mapped)
			assert.Equal(t, tc.typ, mapped.Type())
			assert.Equal(t, tc.final, mapped.NonRetryable())
			assert.Less(t, len(mapped.Message()), 4096, "a history keeps no more of the outside than it must")
			assert.Contains(t, mapped.Message(), `issuing key for "payments-api"`)
		})
	}
}
