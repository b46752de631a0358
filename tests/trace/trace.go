// Package trace stops a real program at each change that it makes to files, until it is told to go on, or killed there.
// The program is the one that people run: it knows nothing of this.
//
// A tracer is a process of its own, since what ptrace reports comes as children's changes of state. A test's main
// function calls Main where Asked says so; New starts the test's own program again as that tracer.
package trace

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Call is a kind of change.
type Call string

// The kinds of change. A file that is replaced is made under another name before: Make is about that.
const (
	Make    Call = "make"
	Replace Call = "replace"
	Append  Call = "append"
	Remove  Call = "remove"
)

// Stop is where the program is held: right before a change, or right after it.
type Stop struct {
	Call Call
	// Path is the file that is changed; of Make and Replace the one that shall have the name.
	Path string
	// Text is what is appended.
	Text string
	Done bool
	// Error: the change was tried and did not happen.
	Error bool
}

// variable asks a test's program to be a tracer.
const variable = "KEYTURN_TRACE_BELOW"

// Asked tells whether this process shall be a tracer.
func Asked() bool { return os.Getenv(variable) != "" }

// Traced is a program under a tracer.
type Traced struct {
	// Cmd is the tracer; whoever ends it ends the program with -9.
	Cmd    *exec.Cmd
	stops  io.ReadCloser
	orders io.WriteCloser
	theirs []*os.File
}

// New makes the command that runs a program and stops it at changes below folder.
func New(folder, program string, args ...string) (*Traced, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	folder, err = filepath.EvalSymlinks(folder)
	if err != nil {
		return nil, err
	}
	stops, stopsEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ordersEnd, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{program}, args...)...) //nolint:noctx // whoever tests ends it
	cmd.ExtraFiles = []*os.File{stopsEnd, ordersEnd}
	cmd.Env = []string{variable + "=" + folder}
	return &Traced{Cmd: cmd, stops: stops, orders: orders, theirs: cmd.ExtraFiles}, nil
}

// Follow calls at with each stop, one at a time, until the program has ended. It must be called once, after Cmd was
// started. While at runs, all threads of the program that change anything wait; and when at kills Cmd, the program dies
// where it stands.
func (t *Traced) Follow(at func(Stop)) error {
	for _, f := range t.theirs {
		_ = f.Close()
	}
	defer func() { _, _ = t.stops.Close(), t.orders.Close() }()
	lines := bufio.NewScanner(t.stops)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var s Stop
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return fmt.Errorf("reading the tracer's %q: %w", lines.Text(), err)
		}
		at(s)
		if _, err := io.WriteString(t.orders, "\n"); err != nil {
			return nil //nolint:nilerr // it is dead
		}
	}
	return lines.Err()
}
