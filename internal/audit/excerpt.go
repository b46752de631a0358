package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Excerpt is what a file has of one credential.
type Excerpt struct {
	// Events are in the order in which they were kept, each ID once: the newest, as many as fit.
	Events []Event `json:"events"`
	// Left is how many older ones did not fit.
	Left int `json:"left,omitempty"`
	// Damaged is how many lines of the whole file are no event: of whom they told nobody knows.
	Damaged int `json:"damaged,omitempty"`
	// Renamed is how many files stand beside it that were renamed away, as by logrotate. They are not read.
	Renamed int `json:"renamed,omitempty"`
}

// ReadOf reads what the file at path has of a credential, or of one of its rotations alone when that is named: as much as
// takes limit bytes in JSON. A file that is not there, since it was just renamed, has nothing.
func ReadOf(path, credential, rotation string, limit int) (Excerpt, error) {
	found := Excerpt{Events: []Event{}, Renamed: renamed(path)}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return found, fmt.Errorf("reading audit file: %w", err)
	}
	defer file.Close()
	if err := found.read(file, credential, rotation, limit); err != nil {
		return found, fmt.Errorf("reading audit file %q: %w", path, err)
	}
	return found, nil
}

// read keeps the newest events that fit. Its memory is bounded by them and by the IDs of the credential's events.
func (x *Excerpt) read(r io.Reader, credential, rotation string, limit int) error {
	seen := map[string]bool{}
	var sizes []int
	total := 0
	damaged, err := scan(r, func(e Event) {
		if e.Credential != credential || rotation != "" && e.Rotation != rotation || seen[e.ID] {
			return
		}
		fitting, err := e.fit() // whoever owns the file may have written anything
		if err != nil {
			x.Damaged++
			return
		}
		text, err := json.Marshal(fitting)
		if err != nil {
			x.Damaged++
			return
		}
		seen[e.ID] = true
		x.Events, sizes, total = append(x.Events, fitting), append(sizes, len(text)+1), total+len(text)+1
		for total > limit {
			total -= sizes[0]
			x.Events, sizes = x.Events[1:], sizes[1:]
			x.Left++
		}
	})
	x.Damaged += len(damaged)
	return err
}

// renamed counts the files beside an audit file that have its name and more.
func renamed(path string) (n int) {
	beside, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return 0
	}
	for _, f := range beside {
		if isRenamed(f, filepath.Base(path)) {
			n++
		}
	}
	return n
}

// isRenamed tells whether a file was the one called name, by its own name: not so what keyturn itself keeps beside it.
func isRenamed(f fs.DirEntry, name string) bool {
	rest, its := strings.CutPrefix(f.Name(), name)
	own := rest == lockSuffix || rest == shippedSuffix || rest == shippedSuffix+lockSuffix
	return its && !own && f.Type().IsRegular() && rest != "" && (rest[0] == '.' || rest[0] == '-')
}
