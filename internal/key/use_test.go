package key_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
)

func TestUsesThatAreAlikeAreOne(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var tally key.Tally
	tally.Add(key.Use{KeyID: "k", Source: "10.0.0.7:4711", Action: "read"}, at.Add(time.Minute))
	tally.Add(key.Use{KeyID: "k", Source: "10.0.0.7", Action: "read"}, at)
	tally.Add(key.Use{KeyID: "k", Source: "10.0.0.7", Action: "read", Error: "denied"}, at.Add(time.Hour))
	list, omitted := tally.List()
	assert.Zero(t, omitted)
	assert.Equal(t, []key.Use{
		{KeyID: "k", Source: "10.0.0.7", Action: "read", Error: "denied", First: at.Add(time.Hour), Last: at.Add(time.Hour), Count: 1},
		{KeyID: "k", Source: "10.0.0.7", Action: "read", First: at, Last: at.Add(time.Minute), Count: 2},
	}, list)
}

// Whoever has the key may use it in as many ways as they like. Where from is told for longer than what for.
func TestATallyIsBounded(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var tally key.Tally
	for n := range 5000 {
		tally.Add(key.Use{KeyID: "k", Source: "10.0.0.7", Action: fmt.Sprint("read-", n)}, at)
	}
	tally.Add(key.Use{KeyID: "k", Source: "192.0.2.1", Action: "steal"}, at.Add(time.Hour))
	list, omitted := tally.List()
	assert.Zero(t, omitted)
	assert.Len(t, list, 502)
	assert.Equal(t, "192.0.2.1", list[0].Source)
	for n := range 5000 {
		tally.Add(key.Use{KeyID: "k", Source: fmt.Sprint("host-", n)}, at)
	}
	list, omitted = tally.List()
	assert.Len(t, list, 1000)
	all := omitted
	for _, u := range list {
		all += u.Count
	}
	assert.Equal(t, 10001, all, "each is counted once")
}
