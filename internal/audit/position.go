package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// position is what a follower knows of the events that it took.
type position struct {
	// Record is a random name.
	Record string `json:"record"`
	// Begins is the digest of the first line of the file that it stands in, Offset is where.
	Begins string `json:"begins,omitempty"`
	Offset int64  `json:"offset"`
	// Kept is when this was written.
	Kept time.Time `json:"kept,omitzero"`
	// Rotations has the events of each, by credential and rotation.
	Rotations map[string]counted `json:"rotations"`
}

// counted are the events of a rotation that were taken.
type counted struct {
	// Taken is how many they are; IDs has a digest of each of the last ones, in the order of their numbers.
	Taken int       `json:"taken"`
	IDs   []byte    `json:"ids,omitempty"`
	Last  time.Time `json:"last"`
	Ended bool      `json:"ended,omitempty"`
}

// What is known of a rotation's events, so that the note stays small, and for how long after the last of them: a repetition comes within days,
// and a review of what has ended within weeks. A repetition of what is known no more gets another number; what comes after endedFor, or
// unendedFor, counts from 1 again.
const (
	maxIDs     = 1000
	idsFor     = 14 * 24 * time.Hour
	endedFor   = 60 * 24 * time.Hour
	unendedFor = 400 * 24 * time.Hour
)

func readPosition(folder *os.Root, name string) (position, error) {
	fresh := position{Record: strings.ToLower(rand.Text()[:12]), Rotations: map[string]counted{}}
	text, err := folder.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, err
	}
	var p position
	if err := json.Unmarshal(text, &p); err != nil || p.Record == "" || p.Offset < 0 || p.Rotations == nil || slices.ContainsFunc(slices.Collect(maps.Values(p.Rotations)), counted.wrong) {
		return fresh, fmt.Errorf("%s is not what a worker wrote", name)
	}
	return p, nil
}

// wrong tells that nobody counted so.
func (c counted) wrong() bool { return len(c.IDs)%idSize != 0 || c.Taken < len(c.IDs)/idSize }

func (p *position) write(folder *os.Root, name string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return atomicfile.Write(folder, name, append(text, '\n'), 0o600, nil)
}

// idSize is enough that nobody who chooses the ID of one event can hide another behind it.
const idSize = 16

func numberedBy(e Event) (rotation string, id []byte) {
	sum := sha256.Sum256([]byte(e.ID))
	return e.Credential + "/" + e.Rotation, sum[:idSize]
}

// number is that of an event, and whether it was not taken before.
func (p *position) number(e Event) (n int, isNew bool) {
	rotation, id := numberedBy(e)
	c := p.Rotations[rotation]
	n = c.Taken - len(c.IDs)/idSize
	for taken := range slices.Chunk(c.IDs, idSize) {
		n++
		if slices.Equal(taken, id) {
			return n, false
		}
	}
	return n + 1, true
}

// count takes an event.
func (p *position) count(e Event, now time.Time) {
	rotation, id := numberedBy(e)
	c := p.Rotations[rotation]
	c.Taken, c.IDs, c.Last, c.Ended = c.Taken+1, append(c.IDs, id...), now.UTC(), c.Ended || e.Type == RotationEnded
	c.IDs = c.IDs[max(0, len(c.IDs)-maxIDs*idSize):]
	p.Rotations[rotation] = c
}

// forget drops what is not needed any more.
func (p *position) forget(now time.Time) {
	for rotation, c := range p.Rotations {
		switch age := now.Sub(c.Last); {
		case age > unendedFor || c.Ended && age > endedFor:
			delete(p.Rotations, rotation)
		case age > idsFor:
			c.IDs = nil
			p.Rotations[rotation] = c
		}
	}
	p.Kept = now.UTC()
}
