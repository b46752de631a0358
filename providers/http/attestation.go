package http

import (
	"context"
	"fmt"
	stdhttp "net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-openapi/jsonpointer"

	"github.com/keyturn/keyturn/internal/attestation"
	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// AttestationConfig says where an instance states which key it uses.
type AttestationConfig struct {
	// URL is asked. {instance} in it stands for the instance.
	URL string `json:"url"`
	// Pointer is a JSON pointer to the statement in the reply: a string, or a list of strings, each a
	// fingerprint or a key ID. /key when empty.
	Pointer string `json:"pointer,omitempty"`
	// Timeout bounds each request; 5s when empty, 1m at most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

// Place is the URL that is asked for an instance, wherever in the reply its statement is.
func (c *AttestationConfig) Place(instance string) string {
	place := strings.ReplaceAll(c.URL, instancePlaceholder, instance)
	u, err := url.Parse(place)
	if err != nil {
		return place
	}
	u.Host = strings.ToLower(u.Host)
	return u.String()
}

// Problems implements the question of package strictyaml.
func (c *AttestationConfig) Problems() []strictyaml.Problem {
	problems := append(problemsOfURL(c.URL, instancePlaceholder), problemsOfTimeout(c.Timeout)...)
	return append(problems, problemsOfPointer("pointer", c.Pointer)...)
}

func problemsOfPointer(field, pointer string) []strictyaml.Problem {
	if _, err := jsonpointer.New(pointer); err == nil {
		return nil
	}
	return []strictyaml.Problem{{Field: field, What: "is not a JSON pointer", Write: "/ and the names that lead to it, such as /keyturn/key"}}
}

type attestor struct {
	client  *stdhttp.Client
	config  AttestationConfig
	pointer jsonpointer.Pointer
	now     func() time.Time
}

func openAttestor(e providers.Environment, c AttestationConfig) (*attestor, error) {
	pointer, err := pointerOf(c.Pointer, "/key")
	return &attestor{client: endpoint.Client(e.HTTP), config: c, pointer: pointer, now: e.Now}, err
}

func pointerOf(configured, otherwise string) (jsonpointer.Pointer, error) {
	if configured == "" {
		configured = otherwise
	}
	pointer, err := jsonpointer.New(configured)
	if err != nil {
		return pointer, fmt.Errorf("%w: %q is not a JSON pointer", providers.ErrInvalid, configured)
	}
	return pointer, nil
}

// Attest implements providers.Attestor. It asks the instances in parallel; the statements come in the
// order of the instances.
func (a *attestor) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	return attestation.Each(ctx, instances, a.ask)
}

func (a *attestor) ask(ctx context.Context, instance string) (key.Statement, error) {
	target, err := expandURL(a.config.URL, instance)
	if err != nil {
		return key.Statement{}, err
	}
	r := request{method: stdhttp.MethodGet, url: target, timeout: timeoutOf(a.config.Timeout)}
	got, err := r.ask(ctx, a.client, always)
	if err != nil {
		return key.Statement{}, err
	}
	if got.status != stdhttp.StatusOK {
		return key.Statement{}, r.refused(got)
	}
	document, err := r.document(got)
	if err != nil {
		return key.Statement{}, err
	}
	keys, err := a.stated(document)
	if err != nil {
		return key.Statement{}, fmt.Errorf("asking %s: %w", r.name(), err)
	}
	return key.Statement{Instance: instance, Keys: keys, ObservedAt: a.now(), Source: r.name()}, nil
}

// stated finds the keys in a reply.
func (a *attestor) stated(document any) ([]string, error) {
	found, _, err := a.pointer.Get(document)
	if err != nil {
		return nil, fmt.Errorf("the reply has nothing at %s", a.pointer.String())
	}
	keys, err := attestation.Keys(found)
	if err != nil {
		return nil, fmt.Errorf("at %s: %w", a.pointer.String(), err)
	}
	return keys, nil
}
