// Package attestation is what attestors have in common that ask each instance by itself.
package attestation

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/key"
)

const (
	// atOnce bounds the questions that are open at once.
	atOnce = 16
	// NamedFailures bounds the instances whose trouble an error tells in full.
	NamedFailures = 8
	// maxStated bounds the keys that one instance may state.
	maxStated = 8
)

// statedForm is what a fingerprint or key ID looks like. What is longer is nothing that names a key.
var statedForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,255}$`)

// Each asks the instances in parallel, so that one bad instance does not hide the others; the statements
// come in the order of the instances.
func Each(ctx context.Context, instances []string, ask func(ctx context.Context, instance string) (key.Statement, error)) ([]key.Statement, error) {
	statements := make([]key.Statement, len(instances))
	failures := make([]error, len(instances))
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i, instance := range instances {
		all.Go(func() error {
			statements[i], failures[i] = ask(ctx, instance)
			return nil
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
	if more := len(silent) - NamedFailures; more > 0 {
		silent = append(silent[:NamedFailures], fmt.Errorf("attesting: %d more instances gave no statement", more))
	}
	return answered, errors.Join(silent...)
}

// Keys reads what an instance states: a string or a list of strings. What it has instead is not repeated:
// it may be the key itself.
func Keys(found any) ([]string, error) {
	list, isList := found.([]any)
	if !isList {
		list = []any{found}
	}
	if len(list) == 0 || len(list) > maxStated {
		return nil, fmt.Errorf("it states %d keys, and 1 to %d are understood", len(list), maxStated)
	}
	var keys []string
	for _, entry := range list {
		text, ok := entry.(string)
		if !ok || !statedForm.MatchString(text) {
			return nil, errors.New("it states neither a fingerprint nor a key ID")
		}
		keys = append(keys, text)
	}
	return keys, nil
}
