package incident_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/internal/signed"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func leak() incident.Declaration {
	return incident.Declaration{
		Schema: incident.Schema, Namespace: "default", Incident: incident.ID("leak-1"), Reason: "key in a public repository", Deadline: incident.DefaultDeadline,
		Exposed: map[string][]string{"payments-api": {"k1"}}, Nonce: "n", SignedAt: noon, Expires: noon.Add(time.Hour),
	}
}

func TestWhatIsSignedIsReadAgain(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	e, err := leak().Sign(key)
	require.NoError(t, err)
	signers, err := signed.ParseSigners(append([]byte("ann "), ssh.MarshalAuthorizedKey(key.PublicKey())...))
	require.NoError(t, err)
	body, by, err := e.Open(signed.Incident, signers, noon)
	require.NoError(t, err)
	assert.Equal(t, "ann", by.Name)
	read, err := incident.Parse(body)
	require.NoError(t, err)
	assert.Equal(t, leak(), read)
	_, _, err = e.Open(signed.Decision, signers, noon)
	require.ErrorIs(t, err, signed.ErrForged, "it is worth nothing for anything else")

	digest, err := incident.Digest(e)
	require.NoError(t, err)
	spaced := signed.Envelope{Body: []byte(strings.ReplaceAll(string(e.Body), ",", " ,\n"))}
	again, err := incident.Digest(spaced)
	require.NoError(t, err)
	assert.Equal(t, digest, again, "however it is written")
}

// All that is wrong is told at once.
func TestWhatNoDeclarationSays(t *testing.T) {
	t.Parallel()
	wrong := incident.Declaration{
		Incident: "rotation/x", Reason: " ", Deadline: -1, Exposed: map[string][]string{"a": nil, "b": {""}},
		SignedAt: noon, Expires: noon.Add(2 * time.Hour),
	}
	err := wrong.Validate()
	for _, says := range []string{"its schema is", "its incident is", "it gives no reason", "its revokeDeadline is", `credential "a" has 0 exposed keys`, `credential "b" has an exposed key without ID`, "its nonce is", "at most 1h"} {
		assert.ErrorContains(t, err, says)
	}
	_, err = incident.Parse([]byte(`{"schema":"keyturn/incident/v1","alsoDestroy":["everything"]}`))
	assert.ErrorContains(t, err, "alsoDestroy")
	for _, slug := range []string{"", "Leak", "a b", "../x", strings.Repeat("a", 64)} {
		d := leak()
		d.Incident = incident.ID(slug)
		assert.ErrorContains(t, d.Validate(), "its incident is", slug)
	}
	assert.NoError(t, leak().Validate())
}

func TestUntilWhenADeclarationIsGood(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at   time.Time
		says string
	}{
		"when it was signed":                   {noon, ""},
		"by a clock that is behind":            {noon.Add(-4 * time.Minute), ""},
		"before it was signed":                 {noon.Add(-6 * time.Minute), "which is to come"},
		"at its end, by a clock that is ahead": {noon.Add(64 * time.Minute), ""},
		"after its end":                        {noon.Add(66 * time.Minute), "sign another one"},
	} {
		err := leak().Good(c.at)
		if c.says == "" {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorContains(t, err, c.says, name)
		}
	}
}

// Whoever says when an incident began moves its deadline neither before the signature nor far beyond the declaration's own end.
func TestWhenAnIncidentBegan(t *testing.T) {
	t.Parallel()
	d := leak()
	assert.Equal(t, noon, d.Begun(noon.Add(-100*time.Hour)))
	assert.Equal(t, noon.Add(time.Minute), d.Begun(noon.Add(time.Minute)))
	assert.Equal(t, d.Expires.Add(incident.Skew), d.Begun(noon.Add(100*time.Hour)))
}
