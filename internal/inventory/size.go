package inventory

import (
	"encoding/json"
	"fmt"
)

// What a rotation is told, in bytes: Temporal takes no input above 2 MB, and one that is too large would end a run in its middle. A spec goes
// along with each activity, the names of instances with a delivery to all of them, and besides them what people decided and the run saw.
const (
	maxSpec  = 512 << 10
	maxFleet = 256 << 10
)

func checkSize(a at, c Credential) {
	names := 0
	for _, consumer := range c.Consumers {
		for _, instance := range consumer.InstanceNames() {
			names += len(consumer.Name) + len(instance) + len(`"/",`)
		}
	}
	if names > maxFleet {
		a.wrong("consumers", fmt.Sprintf("have instances whose names take %d bytes, each with that of its consumer: at most %d fit into one rotation", names, maxFleet),
			"give them shorter names, or share the consumers out to several credentials")
	}
	if text, err := json.Marshal(c); err == nil && len(text) > maxSpec {
		a.wrong("consumers", fmt.Sprintf("make a spec of %d bytes: at most %d fit into one rotation", len(text), maxSpec), "share the consumers out to several credentials")
	}
}
