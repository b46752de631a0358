package http

import (
	"cmp"
	"context"
	"fmt"
	stdhttp "net/http"
	"slices"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// methodPurge is what caches in front of a service know.
const methodPurge = "PURGE"

// PurgeConfig says where an instance is told to forget what it cached. Any 2xx says that it has.
type PurgeConfig struct {
	// URL is called. {instance} in it stands for the instance.
	URL string `json:"url"`
	// Method is POST (default), DELETE or PURGE. The request has no body.
	Method string `json:"method,omitempty"`
	// Timeout bounds the request; 5s when empty, 1m at most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

// Problems implements the question of package strictyaml.
func (c *PurgeConfig) Problems() []strictyaml.Problem {
	problems := append(problemsOfURL(c.URL, instancePlaceholder), problemsOfTimeout(c.Timeout)...)
	if !slices.Contains([]string{"", stdhttp.MethodPost, stdhttp.MethodDelete, methodPurge}, c.Method) {
		problems = append(problems, strictyaml.Problem{Field: "method", What: fmt.Sprintf("is %q", c.Method), Write: "POST, DELETE or PURGE"})
	}
	return problems
}

type purger struct {
	client *stdhttp.Client
	config PurgeConfig
}

var _ providers.Purger = (*purger)(nil)

// Purge implements providers.Purger. All that is cached goes, whichever key it is.
func (p *purger) Purge(ctx context.Context, instance string, _ key.Ref) error {
	target, err := expandURL(p.config.URL, instance)
	if err != nil {
		return fmt.Errorf("purging: %w", err)
	}
	r := request{method: cmp.Or(p.config.Method, stdhttp.MethodPost), url: target, timeout: timeoutOf(p.config.Timeout)}
	got, err := r.ask(ctx, p.client, func(status int) bool { return status/100 != 2 })
	if err == nil && got.status/100 != 2 {
		err = r.refused(got)
	}
	if err != nil {
		return fmt.Errorf("purging: %w", err)
	}
	return nil
}
