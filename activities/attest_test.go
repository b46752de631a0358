package activities

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers/providertest"
)

// stating is an attestor whose one instance states whatever it likes.
type stating []string

func (s stating) Attest(_ context.Context, instances []string) ([]key.Statement, error) {
	return []key.Statement{{Instance: instances[0], Keys: s}}, nil
}

func TestWhatACarelessConsumerStatesIsNotRepeated(t *testing.T) {
	t.Parallel()
	const fingerprint = "fp:00112233445566778899aabbccddeeff"
	for _, told := range providertest.Tellings(secret.Bundle{}) {
		c := consumer{Consumer: inventory.Consumer{Name: "checkout"}, attestor: stating{"k-7", told, fingerprint}}
		st, _ := c.attest(t.Context(), []key.Info{{KeyID: "k-7"}}).of(c.InstanceNames()[0])
		require.NotNil(t, st)
		assert.Equal(t, []string{"k-7", "something that is no fingerprint and no known key ID", fingerprint}, st.Keys)
		text, err := json.Marshal(st)
		require.NoError(t, err)
		providertest.AssertUntold(t, string(text), secret.Bundle{})
	}
}
