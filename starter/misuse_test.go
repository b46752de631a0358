package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/workflows"
)

func TestSinceWhenAKeyIsExposed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "72h": now.Add(-72 * time.Hour), "2026-03-01T13:00:00+01:00": time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	} {
		at, err := exposedSince(text, now)
		require.NoError(t, err, text)
		assert.Equal(t, want, at, text)
	}
	for _, text := range []string{"yesterday", "-1h", "2026-03-05T12:00:00Z", "0s"} {
		_, err := exposedSince(text, now)
		assert.ErrorContains(t, err, "write a time that has passed", text)
	}
}

// What is owed, and who used the keys, is shown between the table and the timeline; nothing, while nobody has looked.
func TestAnIncidentShowsDebtAndWhoUsedTheKeys(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := workflows.IncidentStatus{
		Incident: "incident/leak", Message: "Every exposed key is dead.", Since: at, Timeline: []workflows.IncidentMoment{{At: at, What: "declared by ines"}},
		Credentials: []workflows.IncidentMember{{Credential: "payments-api", Exposed: []string{"key-old"}, State: "contained"}},
	}
	var out bytes.Buffer
	printIncident(&out, s)
	assert.NotContains(t, out.String(), "Who used")
	s.Credentials[0].Misuse = &policy.Misuse{
		Uses: []policy.JudgedUse{
			{Use: key.Use{KeyID: "key-old", Source: "checkout-a", Action: "request", First: at, Last: at.Add(time.Minute), Count: 9}, Kind: policy.UsedAsExpected},
			{Use: key.Use{KeyID: "key-old", Source: "192.0.2.1", Action: "request", First: at, Last: at, Count: 1, Error: "refused"}, Kind: policy.TriedDead},
		},
		Unseen: []string{"Uses of the last minute may be missing.\x1b[2J"},
	}
	s.Credentials[0].Debt = []key.Debt{{Kind: "copies-left", About: "key-old", Since: at.Add(time.Minute)}}
	out.Reset()
	printIncident(&out, s)
	assert.Equal(t, `Every exposed key is dead.
CREDENTIAL    EXPOSED  STATE      DEAD AFTER  CURRENT
payments-api  key-old  contained              
Still owed; keyturn sweep says what to do about each:
  payments-api: copies-left key-old, since 2026-03-01T12:01:00Z
Who used the exposed keys, unusual uses first:
  payments-api: tried after its end: key-old from 192.0.2.1 request (refused), 1 time, 2026-03-01T12:00:00Z
  payments-api: expected: key-old from checkout-a request, 9 times, 2026-03-01T12:00:00Z to 2026-03-01T12:01:00Z
  Not known: Uses of the last minute may be missing.\x1b[2J
12:00:00  declared by ines
`, out.String())
}
