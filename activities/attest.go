package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

type statements struct {
	list    []key.Statement
	problem string
}

// of is the statement of one instance, or why there is none.
func (s statements) of(instance string) (*key.Statement, string) {
	if found := slices.IndexFunc(s.list, func(st key.Statement) bool { return st.Instance == instance }); found >= 0 {
		return &s.list[found], ""
	}
	return nil, s.problem
}

// attest asks the consumer's instances. What one states that is neither a fingerprint nor the ID of a key
// of the principal is not repeated: a careless consumer may state the key itself.
func (c consumer) attest(ctx context.Context, keys []key.Info) statements {
	if c.attestor == nil {
		return statements{problem: "it declares no attestation"}
	}
	list, err := c.askAgain(ctx)
	problem := "no statement"
	if err != nil {
		problem = trouble(cutShort(ctx, err))
	}
	for i := range list {
		for j, stated := range list[i].Keys {
			known := slices.ContainsFunc(keys, func(k key.Info) bool { return k.KeyID == stated })
			if !known && !secret.IsFingerprint(stated) {
				list[i].Keys[j] = "something that is no fingerprint and no known key ID"
			}
		}
	}
	return statements{list: list, problem: problem}
}

const (
	// asksEach is how often an instance is asked for each of its replicas: a balancer that deals at random passes over one
	// of them each time once in 150 looks, and there are several looks before a key is taken away.
	asksEach = 5
	// asksAtOnce bounds the questions to one instance at the same time, asksWithin what all of them may take, so that a
	// look fits into an attempt.
	asksAtOnce = 20
	asksWithin = 30 * time.Second
)

// askAgain asks each instance, and one with replicas several times: which of them answers is the balancer's choice. When
// they do not all state the same, the statement is split. One that does not answer each time states nothing.
func (c consumer) askAgain(ctx context.Context) ([]key.Statement, error) {
	list, err := c.attestor.Attest(ctx, c.InstanceNames())
	if c.Replicas < 2 {
		return list, err
	}
	ctx, cancel := context.WithTimeout(ctx, asksWithin)
	defer cancel()
	problems := make([]error, len(list))
	var asked fanOut
	for i := range list {
		asked.do(func() { list[i], problems[i] = c.askReplicas(ctx, list[i]) })
	}
	asked.wait()
	var whole []key.Statement
	for i, problem := range problems {
		if problem == nil {
			whole = append(whole, list[i])
		} else if err == nil {
			err = problem
		}
	}
	return whole, err
}

// askReplicas asks an instance that answered once until it was asked often enough, or does not answer.
func (c consumer) askReplicas(ctx context.Context, st key.Statement) (key.Statement, error) {
	questions, instance := asksEach*c.Replicas-1, []string{st.Instance}
	run := fanOut{atOnce: asksAtOnce}
	var mu sync.Mutex
	var failed error
	answers := 1
	for range questions {
		run.do(func() {
			mu.Lock()
			over := failed != nil
			mu.Unlock()
			if over {
				return
			}
			list, err := c.attestor.Attest(ctx, instance)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case len(list) > 0:
				st = merged(st, list[0])
				answers++
			case failed == nil:
				failed = cmp.Or(err, errors.New("no statement"))
			}
		})
	}
	run.wait()
	if failed != nil {
		return st, fmt.Errorf("it answered %d times of %d, within %s at most: %w", answers, questions+1, asksWithin, failed)
	}
	return st, nil
}

// merged is what two answers of one instance state together.
func merged(a, b key.Statement) key.Statement {
	union := slices.Clone(a.Keys)
	for _, k := range b.Keys {
		if !slices.Contains(union, k) {
			union = append(union, k)
		}
	}
	// Equal sets are as long as their union. What differed once stays split.
	a.Split = a.Split || len(union) != len(a.Keys) || len(union) != len(b.Keys)
	a.Keys, a.ObservedAt = union[:min(len(union), maxStatedTogether)], b.ObservedAt
	return a
}

// maxStatedTogether bounds the keys of a statement that several replicas made.
const maxStatedTogether = 16

// known is a key with its value, to see whether it is in place.
type known struct {
	ref    key.Ref
	bundle secret.Bundle
}

func closeAll(keys []known) {
	for _, k := range keys {
		k.bundle.Close()
	}
}

// unstored tells whether the value of the key in use is in no store: an adopted one, before its first rotation.
func (s *site) unstored(f policy.Facts) bool {
	for keyID, standing := range f.Standings(s.spec.Credential.Adopt) {
		if k, _ := f.Live(keyID); standing == policy.StandingCurrent {
			return f.Ref(k).StoreVersion == ""
		}
	}
	return false
}

// known reads the values of the live keys that the store has, where a batch job's copy is to be compared with them.
func (s *site) known(ctx context.Context, f policy.Facts) ([]known, error) {
	if !slices.ContainsFunc(s.consumers, func(c consumer) bool { return c.IsBatch() && !c.pulls }) {
		return nil, nil
	}
	var keys []known
	for _, v := range f.Versions {
		k, live := f.Live(v.KeyID)
		if !live {
			continue
		}
		bundle, err := s.read(ctx, key.Ref{KeyID: v.KeyID, StoreVersion: v.ID, Fingerprint: v.Fingerprint}, toCompare)
		if err != nil {
			closeAll(keys)
			return nil, fmt.Errorf("reading version %s: %w", v.ID, err)
		}
		keys = append(keys, known{f.Ref(k), bundle})
	}
	return keys, nil
}

// starting is the statement of a batch job's instance: the key that its next run begins with, by the copy that was
// delivered to it or by what the store gives it, and beside that what a run states that is going on. The issuer's record
// of uses tells of no run that goes on.
func (s *site) starting(ctx context.Context, c consumer, instance string, running *key.Statement, l look) (*key.Statement, string) {
	begins, err := s.begins(ctx, c, instance, l.known)
	st := key.Statement{Instance: instance, Keys: []string{begins.KeyID}, ObservedAt: s.now(), Source: "what its next run begins with"}
	switch {
	case err != nil:
		return nil, trouble(fmt.Errorf("looking which key its next run begins with: %w", cutShort(ctx, err)))
	case begins.Fingerprint != "":
		st.Keys = []string{begins.Fingerprint}
	case begins.KeyID != "":
	case l.unstored:
		st.Keys = []string{"a copy that nobody can compare"} // as others state a fingerprint that nobody can match
	case c.pulls:
		return nil, "what its next run would get from the store is no live key: put the value that it uses into CURRENT"
	default:
		return nil, "the copy that its next run begins with is none that keyturn knows: put there, byte for byte, what its target writes for the key " +
			"(a plain file has the value alone, without a line break at its end)"
	}
	if running != nil && running.UsedAt.IsZero() {
		for _, stated := range running.Keys {
			if !begins.Is(stated) {
				st.Keys = append(st.Keys, stated)
			}
		}
		st.Source = strings.Join([]string{st.Source, running.Source}, ", and ")
	}
	return &st, ""
}

// begins names the key that a process which starts now would have; none for one that is not known.
func (s *site) begins(ctx context.Context, c consumer, instance string, known []known) (key.Ref, error) {
	if c.pulls {
		return s.served(ctx, c.waves[instance] == inventory.CanaryWave)
	}
	holder, can := c.target.(providers.Holder)
	if !can {
		return key.Ref{}, fmt.Errorf("%w: its target cannot tell", providers.ErrUnsupported)
	}
	for _, k := range known {
		held, err := holder.Holds(ctx, providers.Delivery{Instance: instance, Key: k.ref, Bundle: k.bundle})
		if err != nil || held {
			return k.ref, err
		}
	}
	return key.Ref{}, nil
}

// served names the key that the store gives to who reads it: PENDING to a canary, while there is one.
func (s *site) served(ctx context.Context, canary bool) (key.Ref, error) {
	bundle, err := s.readLabel(ctx, "", toCompare)
	if canary {
		if pending, missing := s.readLabel(ctx, key.Pending, toCompare); missing == nil {
			bundle.Close()
			bundle, err = pending, nil
		}
	}
	switch {
	case errors.Is(err, providers.ErrNotFound):
		return key.Ref{}, nil
	case err != nil:
		return key.Ref{}, err
	}
	defer bundle.Close()
	keyID, fingerprint, err := s.identify(ctx, bundle)
	if err != nil || keyID == "" {
		return key.Ref{}, err
	}
	return key.Ref{KeyID: keyID, Fingerprint: fingerprint}, nil
}
