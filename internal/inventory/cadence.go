package inventory

import (
	"fmt"
	"time"
)

// checkCadence refuses a cadence in which the next rotation is due before one can have ended: it would rotate without an end. It is
// asked of a file alone: what was applied before, and rotates by such a spec, goes on.
func checkCadence(inv *Inventory, catalog Catalog, r report) {
	pulls := func(target string) bool {
		t, ok := catalog.Lookup(RoleTarget, target)
		return ok && t.Pulls
	}
	for i, c := range inv.Credentials {
		every, waits, room := c.RotateEvery, c.waits(pulls), c.RotateEvery-Duration(c.Lead())
		if every <= 0 || c.Overlap+c.LongestCache() >= every || waits < room {
			continue // it is refused for that, or there is nothing to refuse
		}
		at{report: r, path: fmt.Sprintf("credentials[%d]", i)}.wrong("rotateEvery",
			fmt.Sprintf("is %s, so that a rotation is due %s after the one before began, which takes %s for its waves, the overlap of %s and the disableSoak of %s alone: one would follow the other without an end",
				every, room, waits, max(c.Overlap, c.QuietWindow), c.DisableSoak),
			fmt.Sprintf("write more than %s, or shorter waits", c.leastCadence(waits)))
	}
}

// waits is what a rotation takes that waits for nobody: it is at least that long.
func (c Credential) waits(pulls func(targetType string) bool) Duration {
	all := max(c.Overlap, c.QuietWindow) + c.LongestCache() + c.DisableSoak
	for _, w := range c.Waves(pulls) {
		soak := c.WaveSoak
		for _, consumer := range w.Consumers {
			soak = max(soak, c.WaveSoak+consumer.CacheTTL)
		}
		if all += soak; all > maxTerm { // more would overflow
			return all
		}
	}
	return all
}

// leastCadence is what a cadence with room for these waits is longer than.
func (c Credential) leastCadence(waits Duration) Duration {
	least := waits + (waits+8)/9 // a tenth is the least lead
	if c.Schedule.At != "" {
		least = max(least, waits+2*Duration(c.Schedule.gap()))
	}
	least = min(least, 2*waits) // half the cadence is the longest lead
	unit := Duration(time.Second)
	if least > Duration(time.Hour) {
		unit = Duration(time.Minute)
	}
	return (least + unit - 1) / unit * unit
}
