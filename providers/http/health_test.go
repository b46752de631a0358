package http_test

import (
	"encoding/json"
	"errors"
	stdhttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
	keyturnhttp "github.com/keyturn/keyturn/providers/http"
	"github.com/keyturn/keyturn/providers/providertest"
)

func openHealth(t require.TestingT, c keyturnhttp.HealthConfig) providers.HealthSignal {
	c.Timeout = patient(c.Timeout)
	require.Empty(t, c.Problems())
	h, err := keyturnhttp.Descriptor().Health.Open(world(), nil, &c)
	require.NoError(t, err)
	return h
}

func TestHealthSignalConforms(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{"cumulative counters": "", "counters of a window": "?w={window}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.HealthSignal(t, providertest.HealthSetup{Windowed: query != "", Open: func(t providertest.T, now func() providertest.Source) providers.HealthSignal {
				base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
					source := now()
					switch {
					case behave(source.Peer, w, r):
					case query != "" && r.URL.Query().Get("w") != "300":
						w.WriteHeader(stdhttp.StatusBadRequest)
					case source.NoData:
						w.WriteHeader(stdhttp.StatusNoContent)
					default:
						_ = json.NewEncoder(w).Encode(map[string]any{"errors": source.Errors, "total": source.Total})
					}
				})
				return openHealth(t, keyturnhttp.HealthConfig{URL: base + "/stats" + query})
			}})
		})
	}
}

func TestHealthReplies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config  keyturnhttp.HealthConfig
		reply   string
		status  int
		errors  float64
		total   float64
		window  time.Duration
		noData  bool
		problem string
	}{
		"counters":                      {reply: `{"errors":3,"total":1e3}`, errors: 3, total: 1000},
		"elsewhere in the reply":        {config: keyturnhttp.HealthConfig{Errors: "/s/0", Total: "/s/1"}, reply: `{"s":[1,2.5]}`, errors: 1, total: 2.5},
		"the reply tells its window":    {reply: `{"errors":3,"total":9,"window":90}`, errors: 3, total: 9, window: 90 * time.Second},
		"the asked window":              {config: keyturnhttp.HealthConfig{URL: "?s={window}"}, reply: `{"errors":3,"total":9}`, errors: 3, total: 9, window: 2 * time.Second},
		"the reply knows better":        {config: keyturnhttp.HealthConfig{URL: "?s={window}"}, reply: `{"errors":3,"total":9,"window":60}`, errors: 3, total: 9, window: time.Minute},
		"404 is no quiet source":        {status: 404, problem: "404 Not Found"},
		"204 is no traffic":             {status: 204, noData: true, problem: "204 No Content"},
		"no errors counted yet":         {reply: `{"total":9}`, noData: true, problem: "nothing at /errors"},
		"no total":                      {reply: `{"errors":0}`, noData: true, problem: "nothing at /total"},
		"null is nothing":               {reply: `{"errors":null,"total":1}`, noData: true, problem: "nothing at /errors"},
		"a negative number":             {reply: `{"errors":0,"total":-1}`, problem: "not a count"},
		"an infinite number":            {reply: `{"errors":0,"total":1e999}`, problem: "not a count"},
		"a number in a string":          {reply: `{"errors":"NaN","total":1}`, problem: "no number at /errors"},
		"a negative window":             {reply: `{"errors":0,"total":1,"window":-5}`, problem: "not a count"},
		"a window of nothing":           {reply: `{"errors":0,"total":1,"window":0}`, problem: "no number of seconds"},
		"a window longer than any time": {reply: `{"errors":0,"total":1,"window":1e300}`, problem: "no number of seconds"},
		"no JSON":                       {reply: `errors 3`, problem: "not JSON"},
		"an endless reply":              {reply: `{"errors":0,"total":1}` + strings.Repeat(" ", 64<<10), problem: "longer than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := serve(t, func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
				if r.URL.RawQuery != "" {
					assert.Equal(t, "s=2", r.URL.RawQuery, "whole seconds, rounded up")
				}
				if c.status != 0 {
					w.WriteHeader(c.status)
				}
				_, _ = w.Write([]byte(c.reply))
			})
			c.config.URL = base + c.config.URL
			got, err := openHealth(t, c.config).Sample(t.Context(), 1500*time.Millisecond)
			if c.problem != "" {
				require.ErrorContains(t, err, c.problem)
				assert.Equal(t, c.noData, errors.Is(err, providers.ErrNoData))
				return
			}
			require.NoError(t, err)
			assert.Equal(t, []float64{c.errors, c.total}, []float64{got.Errors, got.Total})
			assert.Equal(t, c.window, got.Window)
		})
	}
}
