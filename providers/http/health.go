package http

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	stdhttp "net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-openapi/jsonpointer"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// HealthConfig says where requests and errors are counted.
type HealthConfig struct {
	// URL is asked. {window} in it stands for the window in seconds: the counters are then of that
	// window, otherwise they count from the start of the source on.
	URL string `json:"url"`
	// Errors is a JSON pointer to the number of errors; /errors when empty.
	Errors string `json:"errors,omitempty"`
	// Total is a JSON pointer to the number of all requests; /total when empty.
	Total string `json:"total,omitempty"`
	// Window is a JSON pointer to the seconds that the counters are of, where the reply tells; /window
	// when empty.
	Window string `json:"window,omitempty"`
	// Timeout bounds the request; 5s when empty, 1m at most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

// Problems implements the question of package strictyaml.
func (c *HealthConfig) Problems() []strictyaml.Problem {
	problems := append(problemsOfURL(c.URL, windowPlaceholder), problemsOfTimeout(c.Timeout)...)
	problems = append(problems, problemsOfPointer("errors", c.Errors)...)
	problems = append(problems, problemsOfPointer("total", c.Total)...)
	return append(problems, problemsOfPointer("window", c.Window)...)
}

type health struct {
	client                *stdhttp.Client
	config                HealthConfig
	errors, total, window jsonpointer.Pointer
	now                   func() time.Time
}

func openHealth(e providers.Environment, c HealthConfig) (h *health, err error) {
	h = &health{client: endpoint.Client(e.HTTP), config: c, now: e.Now}
	for _, p := range []struct {
		into                  *jsonpointer.Pointer
		configured, otherwise string
	}{{&h.errors, c.Errors, "/errors"}, {&h.total, c.Total, "/total"}, {&h.window, c.Window, "/window"}} {
		if *p.into, err = pointerOf(p.configured, p.otherwise); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Sample implements providers.HealthSignal. A source that answers 204, or lacks a counter, has no data. One that is not there
// is no quiet one.
func (h *health) Sample(ctx context.Context, window time.Duration) (key.Sample, error) {
	seconds := max(1, int64(math.Ceil(window.Seconds())))
	target, err := expandURL(h.config.URL, "", windowPlaceholder, strconv.FormatInt(seconds, 10))
	if err != nil {
		return key.Sample{}, fmt.Errorf("sampling: %w", err)
	}
	r := request{method: stdhttp.MethodGet, url: target, timeout: timeoutOf(h.config.Timeout)}
	got, err := r.ask(ctx, h.client, always)
	switch {
	case err != nil:
		return key.Sample{}, fmt.Errorf("sampling: %w", err)
	case got.status == stdhttp.StatusNoContent:
		return key.Sample{}, fmt.Errorf("sampling: asking %s: %w: it answers %d %s", r.name(), providers.ErrNoData, got.status, stdhttp.StatusText(got.status))
	case got.status != stdhttp.StatusOK:
		return key.Sample{}, fmt.Errorf("sampling: %w", r.refused(got))
	}
	document, err := r.document(got)
	if err != nil {
		return key.Sample{}, fmt.Errorf("sampling: %w", err)
	}
	sample := key.Sample{At: h.now()}
	if strings.Contains(h.config.URL, windowPlaceholder) {
		sample.Window = time.Duration(seconds) * time.Second
	}
	if err := h.read(document, &sample); err != nil {
		return key.Sample{}, fmt.Errorf("sampling: asking %s: %w", r.name(), err)
	}
	return sample, nil
}

func (h *health) read(document any, into *key.Sample) error {
	for _, counter := range []struct {
		pointer jsonpointer.Pointer
		into    *float64
	}{{h.errors, &into.Errors}, {h.total, &into.Total}} {
		value, there, err := number(document, counter.pointer)
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%w: the reply has nothing at %s", providers.ErrNoData, counter.pointer.String())
		}
		*counter.into = value
	}
	seconds, there, err := number(document, h.window)
	if err != nil || !there {
		return err
	}
	if seconds == 0 || seconds > math.MaxInt64/float64(time.Second)/2 {
		return fmt.Errorf("the window at %s is no number of seconds", h.window.String())
	}
	into.Window = time.Duration(seconds * float64(time.Second))
	return nil
}

// number finds a counter in the reply; none there, or null, is no error.
func number(document any, pointer jsonpointer.Pointer) (value float64, there bool, err error) {
	found, _, err := pointer.Get(document)
	if err != nil || found == nil {
		return 0, false, nil
	}
	text, ok := found.(json.Number)
	if !ok {
		return 0, false, fmt.Errorf("the reply has no number at %s", pointer.String())
	}
	value, err = text.Float64()
	if err != nil || math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		return 0, false, fmt.Errorf("the number at %s is not a count: negative, or too large", pointer.String())
	}
	return value, true, nil
}
