package inventory_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
)

func TestACadenceHasRoomForARotation(t *testing.T) {
	t.Parallel()
	const file = `apiVersion: keyturn/v1
inventory: payments
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: production
    approvals: {revoke: {count: 1, trust: any}}
    TERMS
    issuer: {type: gateway, account: edge, principal: payments-api}
    store: {type: file, account: vault, path: payments-api}
    noConsumers: true
`
	load := func(terms string) error {
		_, err := inventory.Load("f.yaml", []byte(strings.ReplaceAll(file, "TERMS", terms)), real)
		return err
	}
	for name, x := range map[string]struct{ terms, want string }{
		"a soak beyond the cadence has none":   {"rotateEvery: 3d; overlap: 48h; disableSoak: 10d", `f.yaml:9:18: credentials[0].rotateEvery is 3d, so that a rotation is due 2d16h48m after the one before began, which takes 12d for its waves, the overlap of 2d and the disableSoak of 10d alone`},
		"nor has a soak as long as is left":    {"rotateEvery: 10d; overlap: 8d; disableSoak: 1d", "write more than 10d, or shorter waits"},
		"a minute less has":                    {"rotateEvery: 10d; overlap: 8d; disableSoak: 1439m", ""},
		"windows make the next one due before": {`rotateEvery: 20d; overlap: 10d; disableSoak: 1d; schedule: {at: "10:00", days: [sun]}`, "is due 10d after the one before began, which takes 11d"},
		"with windows each day it has":         {`rotateEvery: 20d; overlap: 10d; disableSoak: 1d; schedule: {at: "10:00"}`, ""},
		"the defaults of a critical one have":  {"risk: critical", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			terms := strings.ReplaceAll(x.terms, "; ", "\n    ")
			err := load(terms)
			if x.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, x.want)
			// What it says to write is enough, and no less is.
			least := regexp.MustCompile(`write more than (\S+), or`).FindStringSubmatch(err.Error())
			require.Len(t, least, 2, err)
			with := func(cadence string) error {
				return load(regexp.MustCompile(`rotateEvery: \S+`).ReplaceAllString(terms, "rotateEvery: "+cadence))
			}
			assert.ErrorContains(t, with(least[1]), "rotateEvery")
			assert.NoError(t, with(least[1]+"1m"))
		})
	}
}
