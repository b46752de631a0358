package http

import (
	"context"
	"errors"
	"fmt"
	stdhttp "net/http"
	"regexp"
	"time"

	"github.com/go-openapi/jsonpointer"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
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

const (
	// atOnce bounds the requests to instances that are open at once.
	atOnce = 16
	// namedFailures bounds the instances whose trouble an error tells in full.
	namedFailures = 8
	// maxStated bounds the keys that one instance may state.
	maxStated = 8
)

// statedForm is what a fingerprint or key ID looks like. What is longer is nothing that names a key.
var statedForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,255}$`)

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
	statements := make([]key.Statement, len(instances))
	failures := make([]error, len(instances))
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i, instance := range instances {
		all.Go(func() error {
			statements[i], failures[i] = a.ask(ctx, instance)
			return nil // one bad instance does not hide the others
		})
	}
	_ = all.Wait()

	var answered []key.Statement
	var silent []error
	for i, err := range failures {
		if err == nil {
			answered = append(answered, statements[i])
			continue
		}
		silent = append(silent, fmt.Errorf("attesting %s: %w", instances[i], err))
	}
	if more := len(silent) - namedFailures; more > 0 {
		silent = append(silent[:namedFailures], fmt.Errorf("attesting: %d more instances gave no statement", more))
	}
	return answered, errors.Join(silent...)
}

func (a *attestor) ask(ctx context.Context, instance string) (key.Statement, error) {
	target, err := expandURL(a.config.URL, instance)
	if err != nil {
		return key.Statement{}, err
	}
	r := request{method: stdhttp.MethodGet, url: target, timeout: timeoutOf(a.config.Timeout), words: outside.MaxText / namedFailures}
	got, err := r.ask(ctx, a.client, always)
	if err != nil {
		return key.Statement{}, err
	}
	if got.status/100 != 2 {
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

// stated finds the keys in a reply. What it has instead is not repeated: it may be the key itself.
func (a *attestor) stated(document any) ([]string, error) {
	found, _, err := a.pointer.Get(document)
	if err != nil {
		return nil, fmt.Errorf("the reply has nothing at %s", a.pointer.String())
	}
	list, isList := found.([]any)
	if !isList {
		list = []any{found}
	}
	if len(list) == 0 || len(list) > maxStated {
		return nil, fmt.Errorf("the reply states %d keys at %s, and 1 to %d are understood", len(list), a.pointer.String(), maxStated)
	}
	var keys []string
	for _, entry := range list {
		text, ok := entry.(string)
		if !ok || !statedForm.MatchString(text) {
			return nil, fmt.Errorf("the reply has neither a fingerprint nor a key ID at %s", a.pointer.String())
		}
		keys = append(keys, text)
	}
	return keys, nil
}
