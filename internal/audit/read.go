package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxLine bounds a line that is taken for an event; the largest event that fits is smaller.
const maxLine = 1 << 20

// Trail is what a record holds.
type Trail struct {
	// Events are in the order in which they were kept, each ID once: the first.
	Events []Event
	// Damaged are the lines that are no event.
	Damaged []Damage
}

// Damage is a line that could not be read. Its text is not repeated.
type Damage struct {
	// Line counts from 1.
	Line int
	// What is wrong with it.
	What string
}

func (d Damage) String() string { return fmt.Sprintf("line %d: %s", d.Line, d.What) }

// Read reads the file that a File wrote. Damaged lines are reported beside the events, they are no
// error. Reading while a worker appends is safe: its last line may then be reported as cut off.
func Read(path string) (Trail, error) {
	file, err := os.Open(path)
	if err != nil {
		return Trail{}, fmt.Errorf("reading audit file: %w", err)
	}
	defer file.Close()
	trail, err := ReadFrom(file)
	if err != nil {
		return Trail{}, fmt.Errorf("reading audit file %q: %w", path, err)
	}
	return trail, nil
}

// ReadFrom is Read for a stream. Its memory is bounded by the events, whatever the lines are.
func ReadFrom(r io.Reader) (trail Trail, err error) {
	seen := map[string]bool{}
	trail.Damaged, err = scan(r, func(e Event) {
		if !seen[e.ID] {
			seen[e.ID] = true
			trail.Events = append(trail.Events, e)
		}
	})
	if err != nil {
		return Trail{}, err
	}
	return trail, nil
}

// scan hands over each event of a stream, repetitions too, and returns the lines that are none.
func scan(r io.Reader, take func(Event)) (damaged []Damage, err error) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for number := 1; ; number++ {
		line, length, err := nextLine(lines)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		last := err != nil
		switch e, bad := parse(line, length); {
		case bad != "" && last:
			damaged = append(damaged, Damage{Line: number, What: "is cut off: the writer was interrupted, or is at work"})
		case bad != "":
			damaged = append(damaged, Damage{Line: number, What: bad})
		case e.ID != "":
			take(e)
		}
		if last {
			return damaged, nil
		}
	}
}

// nextLine returns the next line without its end, and its length, of which no more than maxLine is kept.
// The last line comes with io.EOF.
func nextLine(r *bufio.Reader) (line []byte, length int, err error) {
	for {
		piece, err := r.ReadSlice('\n')
		length += len(piece)
		if length <= maxLine {
			line = append(line, piece...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(line, []byte{'\n'}), length, err
		}
	}
}

// parse reads a line. An empty one is no event and no damage.
func parse(line []byte, length int) (e Event, bad string) {
	switch {
	case length > maxLine:
		return Event{}, fmt.Sprintf("is longer than %d bytes", maxLine)
	case len(bytes.TrimSpace(line)) == 0:
		return Event{}, ""
	case json.Unmarshal(line, &e) != nil:
		return Event{}, "is not a JSON object of an event"
	case e.ID == "" || e.Type == "":
		return Event{}, "has no ID or no type"
	}
	return e, ""
}
