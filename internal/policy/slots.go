package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// slotsTaken says that the issuer takes no other key: which ones it has, inactive ones too, how old each is and when it was
// last used, and which one may go.
func slotsTaken(c inventory.Credential, f Facts, standings map[string]Standing, kept int) string {
	var list []string
	for _, k := range f.Keys {
		list = append(list, fmt.Sprintf("%s (%s, %s, %s%s)", k.KeyID, standings[k.KeyID], k.State, created(k), lastUse(f, k)))
	}
	return fmt.Sprintf("the issuer allows %s and has %d: %s; %s", Counted(f.Capabilities.Slots, "key"), kept, strings.Join(list, ", "), freeSlot(c, f, standings))
}

func dateOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func created(k key.Info) string {
	if k.CreatedAt.IsZero() {
		return ""
	}
	return "created " + dateOf(k.CreatedAt) + ", "
}

func lastUse(f Facts, k key.Info) string {
	switch {
	case !k.LastUsedAt.IsZero():
		return "last used " + dateOf(k.LastUsedAt)
	case f.Capabilities.ReportsUsage:
		return "no use recorded"
	}
	return "its use is not reported"
}

// freeSlot says how a slot of the issuer gets free.
func freeSlot(c inventory.Credential, f Facts, standings map[string]Standing) string {
	for _, k := range f.Keys {
		if standings[k.KeyID] == StandingRetired {
			return "end the one that is left over: " + RetireWith(c.Name, k.KeyID)
		}
	}
	spare := slices.DeleteFunc(slices.Clone(f.Keys), func(k key.Info) bool {
		return standings[k.KeyID] == StandingCurrent || len(onAnyOf(f.Instances, []key.Ref{f.Ref(k)})) > 0
	})
	if len(spare) == 0 {
		return "each is in use: take whoever is not on the current key to it, then destroy the other one at the issuer"
	}
	k := slices.MinFunc(spare, func(a, b key.Info) int { // an inactive one, then the one that was used longest ago
		return cmp.Or(disabledFirst(a, b), a.LastUsedAt.Compare(b.LastUsedAt), a.CreatedAt.Compare(b.CreatedAt))
	})
	return fmt.Sprintf("%s is not the current key, and no consumer states it: once you know that nobody uses it, destroy it at the issuer", k.KeyID)
}

func disabledFirst(a, b key.Info) int {
	switch first, second := a.State == key.Disabled, b.State == key.Disabled; {
	case first == second:
		return 0
	case first:
		return -1
	}
	return 1
}

// readEarly are the instances that read a key from the store while it is PENDING: it bears that label before anything has tested
// it, since the store has each key from its first moment on.
func readEarly(instances []Instance) []string {
	var names []string
	for _, i := range instances {
		if i.Pulls && i.Wave == inventory.CanaryWave {
			names = append(names, i.Name())
		}
	}
	return names
}
