package workerconfig_test

import (
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
