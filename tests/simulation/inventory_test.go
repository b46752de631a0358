package simulation

import (
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
)

const (
	principal = "payments-api"
	first     = "key-old" // the key that existed before
)

const (
	budgetWindow = 5 * time.Minute
	watched      = 30 * time.Second // the longest interval in which a rotation is watched
)

const workerConfig = `
apiVersion: keyturn/worker/v1
accounts: {edge: {type: memory}, vault: {type: memory}}
bounds: {test: {principals: ["payments-*"], storePaths: ["payments-*"]}}
notify: [{type: memory}]
`

// inventoryOf is the script's credential in YAML.
func inventoryOf(s script) string {
	var b strings.Builder
	breach, path := "rollback", principal
	if s.pauses {
		breach = "pause"
	}
	fmt.Fprintf(&b, `
apiVersion: keyturn/v1
inventory: payments
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: test
    rotateEvery: 90d
    overlap: %s
    quietWindow: %s
    waveSoak: %s
    waveTimeout: %s
    disableSoak: %s
    errorBudget: {ratio: 0.05, window: %s, minTotal: 10, onBreach: %s}
`, s.overlap, s.quiet, s.waveSoak, s.waveTimeout, s.disableSoak, budgetWindow, breach)
	expires := ""
	if s.requestExpires > 0 {
		expires = ", requestExpires: " + s.requestExpires.String()
	}
	fmt.Fprintf(&b, "    approvals: {revoke: {count: %d, trust: any%s}, signoff: {count: %d, trust: any}}\n", s.approvals, expires, s.signoffs)
	if len(s.steps) > 0 {
		fmt.Fprintf(&b, "    waveSteps: [%s]\n", strings.Join(s.steps, ", "))
	}
	if s.parallel > 0 {
		fmt.Fprintf(&b, "    waveParallel: %d\n", s.parallel)
	}
	if s.adopted {
		path = "payments-empty"
		fmt.Fprintf(&b, "    adopt: [%s]\n", first)
	}
	fmt.Fprintf(&b, `    issuer: {type: memory, account: edge, principal: payments-api}
    store: {type: memory, account: vault, path: %s}
    verify: [{type: memory}]
    health: [{type: memory}]
    consumers:
`, path)
	for _, c := range s.consumers {
		target, named, wave := "memory", "{instance}", ""
		if c.pulls {
			target = "memory-pull"
		}
		if c.instances[0] != c.name {
			named = c.name + "-{instance}"
		}
		if c.wave != "" {
			wave = "wave: " + c.wave + ", "
		}
		list := ""
		if c.instances[0] != c.name {
			list = fmt.Sprintf("instances: [%s], ", strings.Join(c.instances, ", "))
		}
		fresh := ""
		if c.cacheTTL > 0 {
			fresh += fmt.Sprintf("cacheTTL: %s, ", c.cacheTTL)
		}
		if c.longestRun > 0 {
			fresh += fmt.Sprintf("longestRun: %s, ", c.longestRun)
		}
		if c.purge {
			fresh += fmt.Sprintf("purge: {type: memory, instance: %q}, ", named)
		}
		fmt.Fprintf(&b, "      - {name: %s, %s%s%starget: {type: %s, instance: %q}, check: {type: memory, instance: %q}, attestation: {type: memory, instance: %q}}\n",
			c.name, wave, list, fresh, target, named, named, named)
	}
	return b.String()
}

// waves number the waves of all instances that are delivered to.
func (s script) waves() map[string]int {
	c := inventory.Credential{Name: principal}
	for _, step := range s.steps {
		c.WaveSteps = append(c.WaveSteps, inventory.WaveStep(step))
	}
	named := map[string]consumer{}
	for _, one := range s.consumers {
		declared := inventory.Consumer{Name: one.name, Wave: one.wave}
		if one.instances[0] != one.name {
			declared.Instances = one.instances
		}
		if one.pulls {
			declared.Target.Type = "memory-pull"
		}
		named[one.name] = one
		c.Consumers = append(c.Consumers, declared)
	}
	at := map[string]int{}
	for n, w := range c.Waves(func(typ string) bool { return typ == "memory-pull" }) {
		for _, part := range w.Consumers {
			for _, i := range part.InstanceNames() {
				at[named[part.Name].instance(i)] = n
			}
		}
	}
	return at
}

// path is where the credential's secret is.
func (s script) path() string {
	if s.adopted {
		return "payments-empty"
	}
	return principal
}
