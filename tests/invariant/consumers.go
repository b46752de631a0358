package invariant

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
)

func noneRefused(s Seen, wrong wrongFunc) {
	for _, e := range s.happened(Refused) {
		if s.declared(e.Instance) {
			wrong("a request of %s was refused at %s, with key %q", e.Instance, clock(e.At), e.Key)
		}
	}
}

func (s Seen) declared(name string) bool {
	return slices.ContainsFunc(s.Before.Instances, func(i Instance) bool { return i.Name == name })
}

// undeclaredNoticed sees how long a disabled key is refused to somebody of whom keyturn was not told, until it is enabled
// again. It is not destroyed, where the issuer has told of that use by then.
func undeclaredNoticed(s Seen, wrong wrongFunc) {
	if s.Policy.Noticed == 0 {
		return
	}
	within := s.Policy.Noticed + s.Policy.Lag + s.Policy.Slack
	disabled, since := false, map[string]time.Time{}
	for _, e := range s.Events {
		if e.Key != s.Before.Current || e.Key == "" {
			continue
		}
		switch e.Kind {
		case Disabled:
			disabled = true
		case Enabled:
			disabled, since = false, map[string]time.Time{}
		case Destroyed:
			for who, first := range since {
				if s.Policy.Quiet > 0 && e.At.Sub(first) > within {
					wrong("%s, which nobody declared, was refused with the disabled key %s at %s, and it was destroyed at %s all the same",
						who, e.Key, clock(first), clock(e.At))
					return
				}
			}
			disabled, since = false, map[string]time.Time{}
		case Refused:
			first, before := since[e.Instance]
			switch {
			case !disabled || s.declared(e.Instance):
			case !before:
				since[e.Instance] = e.At
			case e.At.Sub(first) > within:
				wrong("%s, which nobody declared, was refused with the disabled key %s from %s to %s, and that is to be noticed in %s",
					e.Instance, e.Key, clock(first), clock(e.At), within)
				return
			}
		}
	}
}

func inUseStays(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if e.Kind != Disabled && e.Kind != Destroyed || e.Theirs {
			continue
		}
		for _, i := range s.Before.Instances {
			if s.holding(i, n) == e.Key && s.states(n)[e.Key] == key.Active {
				wrong("key %s was %s at %s, while %s used it", e.Key, e.Kind, clock(e.At), i.Name)
			}
		}
	}
}

func currentStays(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if (e.Kind == Disabled || e.Kind == Destroyed) && s.current(n) == e.Key && !e.Theirs {
			wrong("key %s was %s at %s, while it was CURRENT", e.Key, e.Kind, clock(e.At))
		}
	}
}

// sentToRefused sees that nobody is sent to a key that the issuer refuses.
func sentToRefused(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if (e.Kind == Delivered || e.Kind == Promoted) && !e.Theirs && e.Key != "" && s.states(n)[e.Key] != key.Active {
			wrong("key %s was %s at %s, and it is refused (%s)", e.Key, e.Kind, clock(e.At), s.states(n)[e.Key])
		}
	}
}

// anotherWorks sees that a key that consumers had is taken away only where each of them uses another one that works.
func anotherWorks(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if e.Kind != Disabled && e.Kind != Destroyed || e.Theirs {
			continue
		}
		had := func(b Event) bool { return (b.Kind == Delivered || b.Kind == Using) && b.Key == e.Key }
		if e.Key != s.Before.Current && !slices.ContainsFunc(s.Events[:n], had) {
			continue
		}
		for _, i := range s.Before.Instances {
			if holds := s.holding(i, n); holds != e.Key && s.states(n)[holds] != key.Active {
				wrong("key %s was %s at %s, and %s is left with key %s, which is refused", e.Key, e.Kind, clock(e.At), i.Name, holds)
			}
		}
	}
}

// firstUse is when an instance first used the key.
func (s Seen) firstUse(instance, keyID string) (at int, ok bool) {
	at = slices.IndexFunc(s.Events, func(e Event) bool { return e.Kind == Using && e.Instance == instance && e.Key == keyID })
	return at, at >= 0
}

// earlier calls with each pair of an instance that got a new key, and one of the waves before.
func (s Seen) earlier(judge func(first, later Instance, began, got int)) {
	for n, e := range s.Events {
		if e.Kind != Delivered && e.Kind != Using || !s.isNew(e.Key) {
			continue
		}
		at := slices.IndexFunc(s.Before.Instances, func(i Instance) bool { return i.Name == e.Instance })
		if at < 0 {
			continue
		}
		later := s.Before.Instances[at]
		again := slices.ContainsFunc(s.Events[:n], func(b Event) bool {
			return b.Instance == e.Instance && b.Key == e.Key && (b.Kind == Delivered || b.Kind == Using)
		})
		if again {
			continue
		}
		for _, first := range s.Before.Instances {
			if first.Wave < later.Wave {
				began, ok := s.firstUse(first.Name, e.Key)
				if !ok {
					began = len(s.Events)
				}
				judge(first, later, began, n)
			}
		}
	}
}

// isNew tells whether a key did not exist before.
func (s Seen) isNew(keyID string) bool {
	return !slices.ContainsFunc(s.Before.Keys, func(k Key) bool { return k.ID == keyID })
}

func canaryFirst(s Seen, wrong wrongFunc) {
	s.earlier(func(first, later Instance, began, got int) {
		if began > got {
			wrong("%s of wave %d got key %s before %s of wave %d used it", later.Name, later.Wave, s.Events[got].Key, first.Name, first.Wave)
		}
	})
}

func wavesSoak(s Seen, wrong wrongFunc) {
	s.earlier(func(first, later Instance, began, got int) {
		if began < got && s.Events[got].At.Sub(s.Events[began].At) < s.Policy.WaveSoak-s.Policy.Slack {
			wrong("%s of wave %d got key %s only %s after %s of wave %d", later.Name, later.Wave, s.Events[got].Key,
				s.Events[got].At.Sub(s.Events[began].At), first.Name, first.Wave)
		}
	})
}

func promotedLast(s Seen, wrong wrongFunc) {
	for n, e := range s.Events {
		if e.Kind != Promoted || !s.isNew(e.Key) {
			continue
		}
		for _, i := range s.Before.Instances {
			if holds := s.holding(i, n); !i.Follows && !i.Batch && holds != e.Key {
				wrong("key %s became CURRENT at %s, while %s used key %q", e.Key, clock(e.At), i.Name, holds)
			}
		}
	}
}
