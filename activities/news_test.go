package activities_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/incident"
	"github.com/keyturn/keyturn/providers"
)

// What people are told of an incident says first what is not contained, and has no words but keyturn's and the declaration's.
func TestWhatPeopleAreToldOfAnIncident(t *testing.T) {
	t.Parallel()
	alive := map[string][]string{"payments-api": {"key-old", "a key that nobody declared"}, "somebody-elses": {"k"}}
	for name, x := range map[string]struct {
		news          activities.News
		alive         map[string][]string
		owed, held    []string
		subject, body string
	}{
		"at its begin": {activities.NewsBegun, alive, nil, nil, "Incident: keys are exposed",
			"incident/leak, declared by ines: key in a public repository. Exposed: payments-api (key-old). Each is destroyed as soon as its consumers are on another key, and DEADLINE whoever still uses it. Follow it with: keyturn incident show incident/leak"},
		"past its deadline": {activities.NewsLate, alive, nil, nil, "NOT CONTAINED: an incident's deadline has passed",
			"NOT CONTAINED YET: payments-api (key-old). The deadline was DEADLINE. incident/leak, declared by ines: key in a public repository. Follow it with: keyturn incident show incident/leak"},
		"when it is paused": {activities.NewsPaused, alive, nil, []string{"payments-api", "call +1 555 0100 now"}, "NOT CONTAINED: an incident is paused",
			"NOT CONTAINED: somebody paused it, and nothing begins for payments-api, not at the deadline either, until it goes on: keyturn incident resume incident/leak. incident/leak, declared by ines: key in a public repository."},
		"when it goes on": {activities.NewsResumed, alive, nil, nil, "An incident goes on after a pause",
			"incident/leak, declared by ines: key in a public repository. Follow it with: keyturn incident show incident/leak"},
		"when all are dead": {activities.NewsContained, nil, nil, nil, "Incident contained: every exposed key is dead",
			"incident/leak, declared by ines: key in a public repository. Consumers may still be on their way to another key. Follow it with: keyturn incident show incident/leak"},
		"at its end, when one may be alive": {activities.NewsEnded, alive, []string{"payments-api"}, nil, "NOT CONTAINED: an incident has ended, and an exposed key may be alive",
			"NOT CONTAINED: payments-api (key-old). incident/leak, declared by ines: key in a public repository. See why with: keyturn incident show incident/leak"},
		"at its end, when something is owed": {activities.NewsEnded, nil, []string{"payments-api", "somebody-elses"}, nil, "Incident ended: every exposed key is dead, and something is owed",
			"Owed: payments-api. incident/leak, declared by ines: key in a public repository. See what with: keyturn incident show incident/leak"},
		"at its end": {activities.NewsEnded, nil, nil, nil, "Incident ended: every exposed key is dead, and all consumers are on another one",
			"incident/leak, declared by ines: key in a public repository."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			in := activities.NewsInput{Emergency: *c.emergency, News: x.news, At: c.now(), Deadline: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Alive: x.alive, Owed: x.owed, Held: x.held}
			c.execute("TellOfIncident", in, nil)
			c.execute("TellOfIncident", in, nil)
			sent := c.world.Notifications()
			require.Len(t, sent, 2)
			assert.Equal(t, sent[0], sent[1], "whoever hears it twice knows it by its ID")
			assert.Equal(t, x.subject, sent[0].Subject)
			assert.Equal(t, x.body, strings.ReplaceAll(sent[0].Body, "2026-03-01T12:00:00Z", "DEADLINE"))
			assert.Equal(t, providers.Alert, sent[0].Severity)
			assert.Equal(t, "dev.keyturn.incident."+string(x.news), sent[0].Type)
		})
	}
}

// That nobody has signed is told in words of keyturn's, and from within an incident alone.
func TestPeopleAreToldThatNobodySigned(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	in := activities.NewsInput{News: activities.NewsUnconfirmed, At: c.now(), Unconfirmed: []string{"payments-api", "call +1 555 0100 now"}}
	err := c.attempt("TellOfIncident", in, nil, 2)
	assert.Equal(t, activities.TypeDeclaration, (&signedCase{crashCase: c}).refusal(err).Type())
	assert.Empty(t, c.world.Notifications())
	c.workflow = incident.ID("leak")
	c.execute("TellOfIncident", in, nil)
	require.Len(t, c.world.Notifications(), 1)
	assert.Equal(t, "NOT CONTAINED: somebody says that a key is exposed of payments-api, and nobody whom trust.incidents names has signed for it. Is it so, sign: keyturn incident confirm incident/leak --sign KEY",
		c.world.Notifications()[0].Body)
}

// Of an incident that is older than its declaration may be, people are told in keyturn's words: whoever has an old declaration has nobody
// told what that says.
func TestAnIncidentThatIsOlderThanItsDeclaration(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	c.wait(25 * time.Hour)
	in := activities.NewsInput{Emergency: *c.emergency, News: activities.NewsEnded, At: c.now(), Alive: map[string][]string{"payments-api": {"key-old"}}}
	require.Error(t, c.attempt("TellOfIncident", in, nil, 2), "from within an incident alone")
	c.workflow = incident.ID("leak")
	c.execute("TellOfIncident", in, nil)
	in.News, in.Held = activities.NewsPaused, []string{"payments-api", "call +1 555 0100 now"}
	c.execute("TellOfIncident", in, nil)
	in.News = activities.NewsResumed
	c.execute("TellOfIncident", in, nil)
	sent := c.world.Notifications()
	require.Len(t, sent, 3)
	assert.Equal(t, "NOT CONTAINED: a key of payments-api may be alive. See why with: keyturn incident show incident/leak", sent[0].Body)
	assert.Equal(t, "NOT CONTAINED: somebody paused it, and nothing begins for payments-api until it goes on: keyturn incident resume incident/leak", sent[1].Body)
	assert.Equal(t, "An incident goes on after a pause", sent[2].Subject)
}

// By a declaration that proves nothing nobody is told anything.
func TestWhoeverHasNoDeclarationTellsNobody(t *testing.T) {
	t.Parallel()
	for name, bend := range map[string]func(*crashCase){
		"nobody signed it": func(c *crashCase) { c.emergency.Declaration.Signature = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			bend(c)
			err := c.attempt("TellOfIncident", activities.NewsInput{Emergency: *c.emergency, News: activities.NewsEnded, At: c.now()}, nil, 2)
			assert.Equal(t, activities.TypeDeclaration, (&signedCase{crashCase: c}).refusal(err).Type())
			assert.Empty(t, c.world.Notifications())
		})
	}
}
