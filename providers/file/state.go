package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

const stateSchema = "keyturn/file-store/v1"

// ErrMalformed is wrapped when a file of the store is not what the store writes. Nothing is overwritten
// then.
var ErrMalformed = errors.New("malformed file")

// state is all that is known of a secret but its values. It is one file, so that each change of it is one
// rename: versions, labels and metadata are never seen half changed.
type state struct {
	Schema string `json:"schema"`
	// Last is the number of the latest version. A number is never given twice.
	Last     int64                `json:"last"`
	Versions []version            `json:"versions"`
	Labels   map[key.Label]string `json:"labels"`
	// Metadata is nil before it was written. Its revision is beside it, but for what was written when there were none.
	Metadata *key.Metadata `json:"metadata,omitempty"`
	Revision key.Revision  `json:"revision,omitempty"`
}

// version is one version of the secret. Its value has a file of its own.
type version struct {
	ID    string `json:"id"`
	Token string `json:"token"`
	// Fields are those that it was staged with; all others are foreign.
	Fields     []string  `json:"fields"`
	CreatedAt  time.Time `json:"createdAt"`
	LabelledAt time.Time `json:"labelledAt"`
}

// errUnchanged ends a change that finds all as it should be.
var errUnchanged = errors.New("unchanged")

// maxVersion leaves room to count on within versionForm.
const maxVersion = 1e15

var versionForm = regexp.MustCompile(`^v[1-9][0-9]{0,17}$`)

func newState() *state {
	return &state{Schema: stateSchema, Versions: []version{}, Labels: map[key.Label]string{}}
}

func (s *state) has(id string) bool {
	return slices.ContainsFunc(s.Versions, func(v version) bool { return v.ID == id })
}

func (s *state) byToken(token string) (version, bool) {
	i := slices.IndexFunc(s.Versions, func(v version) bool { return v.Token == token })
	if i < 0 {
		return version{}, false
	}
	return s.Versions[i], true
}

// labelsOf lists the labels of a version, sorted.
func (s *state) labelsOf(id string) []key.Label {
	var labels []key.Label
	for l, on := range s.Labels {
		if on == id {
			labels = append(labels, l)
		}
	}
	slices.Sort(labels)
	return labels
}

func (s *state) label(l key.Label, id string, now time.Time) {
	s.Labels[l] = id
	for i := range s.Versions {
		if s.Versions[i].ID == id {
			s.Versions[i].LabelledAt = now
		}
	}
}

// add makes the next version, which has PENDING alone.
func (s *state) add(token string, fields []string, now time.Time) version {
	s.Last++
	v := version{ID: "v" + strconv.FormatInt(s.Last, 10), Token: token, Fields: fields, CreatedAt: now, LabelledAt: now}
	s.Versions = append(s.Versions, v)
	s.label(key.Pending, v.ID, now)
	return v
}

// promote moves CURRENT by compare-and-swap.
func (s *state) promote(from, to string, now time.Time) error {
	if !s.has(to) {
		return fmt.Errorf("%w: version %q", providers.ErrNotFound, to)
	}
	switch current := s.Labels[key.Current]; current {
	case to:
		return errUnchanged
	case from:
	default:
		return fmt.Errorf("%w: CURRENT is on %q, not on %q", providers.ErrConflict, current, from)
	}
	for _, l := range []key.Label{key.Pending, key.Previous} {
		if s.Labels[l] == to {
			delete(s.Labels, l)
		}
	}
	s.label(key.Current, to, now)
	if from != "" {
		s.label(key.Previous, from, now)
	}
	return nil
}

// prune forgets a version and its labels.
func (s *state) prune(id string) error {
	if !s.has(id) {
		return errUnchanged
	}
	if s.Labels[key.Current] == id {
		return fmt.Errorf("%w: it is CURRENT", providers.ErrDenied)
	}
	s.Versions = slices.DeleteFunc(s.Versions, func(v version) bool { return v.ID == id })
	for _, l := range s.labelsOf(id) {
		delete(s.Labels, l)
	}
	return nil
}

// metadata is that of the secret, with its revision.
func (s *state) metadata() (m key.Metadata, err error) {
	if s.Metadata == nil {
		return m, nil
	}
	m = *s.Metadata
	if m.Revision = s.Revision; m.Revision == "" {
		m.Revision, err = m.Next()
	}
	return m, err
}

// put writes metadata by compare-and-swap.
func (s *state) put(m key.Metadata) (key.Revision, error) {
	kept, err := s.metadata()
	if err != nil {
		return "", err
	}
	after, err := providers.Replaced(kept, m)
	switch {
	case err != nil:
		return "", err
	case after.Revision == kept.Revision:
		return after.Revision, errUnchanged
	}
	s.Metadata, s.Revision = &after, after.Revision
	return after.Revision, nil
}

// parseState reads and checks a state as a whole.
func parseState(data []byte) (*state, error) {
	s := new(state)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields() // what a later keyturn wrote must not be lost by this one
	if err := decoder.Decode(s); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON of the form that this keyturn writes", ErrMalformed) // the decoder quotes what it reads
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is something after the object", ErrMalformed)
	}
	if what := s.wrong(); what != "" {
		return nil, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	if s.Labels == nil {
		s.Labels = map[key.Label]string{}
	}
	return s, nil
}

func (s *state) wrong() string {
	if s.Schema != stateSchema {
		return fmt.Sprintf("its schema is not %q", stateSchema)
	}
	if s.Last < 0 || s.Last > maxVersion {
		return "its last number cannot be"
	}
	if s.Metadata == nil && s.Revision != "" {
		return "there is a revision of no metadata"
	}
	seen, last := map[string]bool{}, int64(0)
	for _, v := range s.Versions {
		if !versionForm.MatchString(v.ID) {
			return "a version has no proper ID"
		}
		n, _ := strconv.ParseInt(v.ID[1:], 10, 64) // the form bounds it
		switch {
		case n <= last || n > s.Last:
			return "the numbers of the versions do not rise up to the last one"
		case v.Token == "" || seen[v.Token]:
			return "a version has no token of its own"
		case v.CreatedAt.IsZero() || len(v.Fields) == 0:
			return "a version lacks its time or its fields"
		}
		last, seen[v.Token] = n, true
	}
	for l, id := range s.Labels {
		if !s.has(id) {
			return "a label is on no version"
		}
		if l != key.Current && l != key.Pending && l != key.Previous {
			return "there is a label that does not exist"
		}
	}
	return ""
}
