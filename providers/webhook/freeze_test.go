package webhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
	"github.com/keyturn/keyturn/providers/webhook"
)

func TestFreezerConforms(t *testing.T) {
	t.Parallel()
	providertest.Freezer(t, providertest.FreezerSetup{Open: func(t providertest.T, peer providertest.Peer) (providers.Freezer, func() providers.Freeze) {
		var mu sync.Mutex
		var inForce providers.Freeze
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			switch peer {
			case providertest.Ill:
				w.WriteHeader(http.StatusServiceUnavailable)
			case providertest.Telltale:
				w.WriteHeader(http.StatusBadGateway)
				fmt.Fprint(w, strings.Repeat(fmt.Sprintf("\x1b[31m%s\r\n%s", body, r.Header), 100))
			case providertest.Silent:
				<-r.Context().Done()
			}
			var e struct {
				Type string
				Data struct {
					Data struct {
						Incident string
						Until    time.Time
					}
				}
			}
			assert.NoError(t, json.Unmarshal(body, &e))
			mu.Lock()
			defer mu.Unlock()
			switch at := e.Data.Data; {
			case e.Type == "dev.keyturn.deployments.frozen":
				inForce = providers.Freeze{Incident: at.Incident, Until: at.Until}
			case e.Type == "dev.keyturn.deployments.unfrozen" && at.Incident == inForce.Incident:
				inForce = providers.Freeze{}
			}
		})
		c := &webhook.Config{URL: base, TokenFile: tokenFile(t, token, 0o600), Timeout: inventory.Duration(time.Minute)}
		f, err := webhook.Descriptor().Freezer.Open(providers.Environment{HTTP: &http.Client{Transport: &http.Transport{}}}, nil, c)
		require.NoError(t, err)
		return f, func() providers.Freeze { mu.Lock(); defer mu.Unlock(); return inForce }
	}})
}
