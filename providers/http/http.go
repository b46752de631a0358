// Package http asks peers over HTTP: whether a consumer is healthy, whether a key works, which key an
// instance uses, how many requests fail, and that an instance forgets what it cached.
//
// It follows no redirect, and sends a key nowhere but to the configured URL. An error has the status of a reply and its
// length, and no words of the peer: a key may be in them.
package http

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Descriptor describes the type http: check, attestation, health signal and purge hook.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "http",
		Summary: "asks a URL: health check, smoke test of a key, attestation, error budget, purge hook",
		Check: providers.Make(func(e providers.Environment, c *CheckConfig) (providers.Check, error) {
			return openCheck(e, *c), nil
		}),
		Attestor: providers.Make(func(e providers.Environment, c *AttestationConfig) (providers.Attestor, error) {
			return openAttestor(e, *c)
		}),
		Health: providers.Make(func(e providers.Environment, c *HealthConfig) (providers.HealthSignal, error) {
			return openHealth(e, *c)
		}),
		Purge: providers.Make(func(e providers.Environment, c *PurgeConfig) (providers.Purger, error) {
			return &purger{client: endpoint.Client(e.HTTP), config: *c}, nil
		}),
	}
}

const (
	// defaultTimeout bounds a request whose configuration says nothing, longestTimeout any other.
	defaultTimeout = inventory.Duration(5 * time.Second)
	longestTimeout = inventory.Duration(time.Minute)

	instancePlaceholder = "{instance}"
	windowPlaceholder   = "{window}"
)

var (
	placeholderForm = regexp.MustCompile(`\{[^{}]*\}`)
	instanceForm    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
)

// problemsOfURL tells what is wrong with a URL that may have the given placeholders.
func problemsOfURL(template string, placeholders ...string) []strictyaml.Problem {
	problem := func(what, write string) []strictyaml.Problem {
		return []strictyaml.Problem{{Field: "url", What: what, Write: write}}
	}
	for _, found := range placeholderForm.FindAllString(template, -1) {
		if !slices.Contains(placeholders, found) {
			return problem(fmt.Sprintf("has the placeholder %q, which means nothing here", found),
				"one of "+strings.Join(placeholders, ", ")+"; a key belongs into a header")
		}
	}
	expanded := template
	for _, p := range placeholders {
		expanded = strings.ReplaceAll(expanded, p, "1") // valid in a host, a port and a path
	}
	if what, write := endpoint.Judge(expanded); what != "" {
		return problem(what, write)
	}
	if strings.ContainsAny(expanded, "{}") {
		return problem("has a brace that belongs to no placeholder", "%7B or %7D where a brace is meant")
	}
	return nil
}

// expandURL puts values into the placeholders of a URL that problemsOfURL found nothing wrong with. The
// result is judged again, since an instance's name may be a part of the host.
func expandURL(template, instance string, more ...string) (string, error) {
	if strings.Contains(template, instancePlaceholder) && !instanceForm.MatchString(instance) {
		return "", fmt.Errorf("expanding %s: %w: %q cannot be a part of a URL", template, providers.ErrInvalid, instance)
	}
	expanded := strings.NewReplacer(append(more, instancePlaceholder, instance)...).Replace(template)
	if what, _ := endpoint.Judge(expanded); what != "" {
		return "", fmt.Errorf("expanding %s for instance %q: %w: the URL %s", template, instance, providers.ErrInvalid, what)
	}
	return expanded, nil
}

// problemsOfTimeout tells what is wrong with a time-out.
func problemsOfTimeout(d inventory.Duration) []strictyaml.Problem {
	if d >= 0 && d <= longestTimeout {
		return nil
	}
	return []strictyaml.Problem{{Field: "timeout", What: fmt.Sprintf("is %s, and a request may take at most %s", d, longestTimeout), Write: "5s"}}
}

// timeoutOf is the configured time-out, or the default one.
func timeoutOf(d inventory.Duration) time.Duration {
	if d <= 0 {
		return defaultTimeout.Std()
	}
	return d.Std()
}
