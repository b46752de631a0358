package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
)

func TestWhoHearsOfAFinding(t *testing.T) {
	t.Parallel()
	chat, pager, unnamed := workerconfig.Notifier{Name: "chat"}, workerconfig.Notifier{Name: "pager"}, workerconfig.Notifier{}
	config := &workerconfig.Config{Notify: []workerconfig.Notifier{chat, pager, unnamed}}
	for name, c := range map[string]struct {
		named []string
		want  []bool // chat, pager, unnamed
	}{
		"all, when none is named":                     {nil, []bool{true, true, true}},
		"those that are named":                        {[]string{"chat"}, []bool{true, false, false}},
		"those that are there":                        {[]string{"gone", "pager"}, []bool{false, true, false}},
		"all, rather than nobody, when none is there": {[]string{"gone"}, []bool{true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, []bool{wants(config, chat, c.named), wants(config, pager, c.named), wants(config, unnamed, c.named)})
		})
	}
}

func TestWhatAnAnnouncementSays(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	in := AnnounceInput{Sweep: "run", At: at, All: 60, Findings: make([]policy.Finding, 50)}
	m := announcement(in, []policy.Finding{{Kind: policy.FoundOverdue, Credential: "a", Owner: "ann@example.com", Message: "late", Do: "rotate"}})
	assert.Equal(t, "Sweep found 11 things that nobody looks after", m.Subject)
	assert.Equal(t, "overdue a of ann@example.com: late. What to do: rotate\nand 10 more: keyturn sweep", m.Body)
	in = AnnounceInput{All: 1, Findings: make([]policy.Finding, 1)}
	assert.Equal(t, "signature-expires: late. What to do: sign", announcement(in, []policy.Finding{{Kind: policy.FoundExpiring, Message: "late", Do: "sign"}}).Body)
	in.At = at
	assert.Equal(t, "signature-expires, since 2026-03-01: late. What to do: sign",
		announcement(in, []policy.Finding{{Kind: policy.FoundExpiring, Message: "late", Do: "sign", Since: at.Add(-8 * 24 * time.Hour)}}).Body, "a reminder is one")
}
