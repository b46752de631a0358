package workerconfig_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

type paced struct {
	Name      string `json:"name"`
	perSecond []float64
}

func (p *paced) Pace(perSecond float64) { p.perSecond = append(p.perSecond, perSecond) }

func TestAnAccountThatPacesItselfIsToldItsQuota(t *testing.T) {
	t.Parallel()
	c, err := workerconfig.Load("keyturn-worker.yaml", []byte(`apiVersion: keyturn/worker/v1
accounts:
  edge: {type: paced, name: e, quota: 600/m}
  free: {type: paced, name: f}
bounds: {test: {principals: ["*"]}}
`), []providers.Descriptor{{Type: "paced", Account: func() any { return new(paced) }}})
	require.NoError(t, err)
	assert.Equal(t, &paced{"e", []float64{10}}, c.Accounts["edge"].Settings)
	assert.Equal(t, &paced{"f", nil}, c.Accounts["free"].Settings)
}

// A rotation that has begun would be tried again and again, and never go on.
func TestAQuotaThatLetsNoChangeThroughIsRefused(t *testing.T) {
	t.Parallel()
	descriptors := []providers.Descriptor{
		{Type: "paced", Account: func() any { return new(paced) }},
		{Type: "plain", Account: func() any { return new(struct{}) }},
	}
	for quota, refused := range map[string]bool{"1/s": true, "240/m": true, "5/s": false, "300/m": false} {
		text := `apiVersion: keyturn/worker/v1
accounts:
  edge: {type: paced, name: e, quota: RATE}
  plain: {type: plain, quota: RATE}
bounds: {test: {principals: ["*"]}}
`
		_, err := workerconfig.Load("keyturn-worker.yaml", []byte(strings.ReplaceAll(text, "RATE", quota)), descriptors)
		if !refused {
			require.NoError(t, err, quota)
			continue
		}
		require.EqualError(t, err, "keyturn-worker.yaml:3:39: accounts.edge.quota has each call of a worker wait so long that no change would be made: "+
			"what it is judged by holds for seconds; write at least 5/s, or leave it out for no limit", quota)
	}
}
