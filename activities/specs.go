package activities

import (
	"crypto/sha256"
	"sync"

	"github.com/keyturn/keyturn/internal/inventory"
)

// specs are those that were parsed last, by the digest of their body: a watch looks at the same one twice a minute for
// weeks, and parsing is most of what such a look costs. A spec depends on its body alone. Whether it is signed, by whom, and
// what it may do is judged each time.
//
// What get returns is shared: nobody writes to it. It is safe for concurrent use.
type specs struct {
	mu   sync.Mutex
	kept map[[sha256.Size]byte]keptSpec
	size int // of the bodies
}

type keptSpec struct {
	spec inventory.Spec
	size int
}

// What is kept, in bytes of bodies, which is some ten thousand specs; a body of more than a sixteenth of that is not.
const (
	maxSpecs = 16 << 20
	maxSpec  = maxSpecs / 16
)

// get returns the spec of a body, parsed by parse unless it was before. One that does not parse is not kept.
func (s *specs) get(body []byte, parse func([]byte) (inventory.Spec, error)) (inventory.Spec, error) {
	digest := sha256.Sum256(body)
	s.mu.Lock()
	known, ok := s.kept[digest]
	s.mu.Unlock()
	if ok {
		return known.spec, nil
	}
	spec, err := parse(body)
	if err != nil || len(body) > maxSpec {
		return spec, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.kept[digest]; ok { // by another at the same time
		return spec, nil
	}
	for other, k := range s.kept { // in no order: whoever asks for one more than fit, in turns, still finds most of them
		if s.size+len(body) <= maxSpecs {
			break
		}
		delete(s.kept, other)
		s.size -= k.size
	}
	if s.kept == nil {
		s.kept = map[[sha256.Size]byte]keptSpec{}
	}
	s.kept[digest] = keptSpec{spec, len(body)}
	s.size += len(body)
	return spec, nil
}
