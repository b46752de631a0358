package audit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// Numbered is an event as it is told outside of the file that keeps it.
type Numbered struct {
	// Record names the audit file: each worker's host has its own.
	Record string `json:"record"`
	// Number counts the events of a rotation in that record, from 1 on and without a gap; those outside of a rotation count by
	// credential. A repetition has the number that it had.
	Number int `json:"number"`
	Event
}

// Follower reads the events of a File's file one by one, each once, and goes on where the one before it stood: what it has
// read stands beside the file, in one named like it with ".shipped". A file that was renamed is read to its end first, unless it was compressed or
// removed before; that is said in the log.
type Follower struct {
	path, name string
	folder     *os.Root
	turn       *flock.Flock // one follower at a time reads a file
	log        *slog.Logger
	at         position
	file       *os.File // the one that at is in; nil before the first look
	lines      []line   // that were read, and not taken
	ahead      bool     // of what is written down
}

type line struct {
	text   []byte
	length int // with its end
}

const (
	shippedSuffix = ".shipped"
	// turnEvery is how often a follower looks whether it may begin, when another process has its turn.
	turnEvery = time.Second
	// maxLook bounds what one look at a file reads; one line more may be in it.
	maxLook = 256 << 10
)

// Follow waits for its turn, until ctx ends: of several processes that share a file, one reads it.
func Follow(ctx context.Context, path string, log *slog.Logger) (*Follower, error) {
	f := &Follower{path: path, name: filepath.Base(path) + shippedSuffix, turn: flock.New(path+shippedSuffix+lockSuffix, flock.SetPermissions(0o600)), log: log}
	var err error
	if f.folder, err = os.OpenRoot(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("following audit file: %w", err)
	}
	if _, err := f.turn.TryLockContext(ctx, turnEvery); err != nil {
		return nil, errors.Join(fmt.Errorf("following audit file %q: waiting for the turn: %w", path, err), f.folder.Close())
	}
	if f.at, err = readPosition(f.folder, f.name); err != nil {
		log.Error("what was shipped of the audit file is not known any more: all that it holds is shipped again, as a record of another name", "file", path, "record", f.at.Record, "error", err)
	}
	return f, nil
}

// Next is the first event that was not taken; ok is false when there is none. It may be asked again.
func (f *Follower) Next(ctx context.Context) (e Numbered, ok bool, err error) {
	for {
		if len(f.lines) == 0 {
			if err := f.look(ctx); err != nil || len(f.lines) == 0 {
				return Numbered{}, false, err
			}
		}
		first := f.lines[0]
		e, bad := parse(first.text, first.length)
		if bad == "" && e.ID != "" {
			if e, err = e.fit(); err != nil { // whoever owns the file may have written anything
				bad = err.Error()
			}
		}
		switch {
		case bad != "":
			f.log.Error("a line of the audit file is no event: it is not shipped", "file", f.path, "at", f.at.Offset, "it", bad)
		case e.ID != "":
			if number, isNew := f.at.number(e); isNew {
				return Numbered{Record: f.at.Record, Number: number, Event: e}, true, nil
			}
		}
		f.pass()
	}
}

// Took says that the event which Next returned needs not be returned again. That is known to the next process after Keep.
func (f *Follower) Took(e Numbered, now time.Time) {
	f.at.count(e.Event, now)
	f.pass()
}

func (f *Follower) pass() {
	f.at.Offset += int64(f.lines[0].length)
	f.lines, f.ahead = f.lines[1:], true
}

// Keep writes down what was taken.
func (f *Follower) Keep(now time.Time) error {
	if !f.ahead {
		return nil
	}
	f.at.forget(now)
	if err := f.at.write(f.folder, f.name); err != nil {
		return fmt.Errorf("noting what is shipped of audit file %q: %w", f.path, err)
	}
	f.ahead = false
	return nil
}

// Waiting is how many bytes were not taken.
func (f *Follower) Waiting() (bytes int64) {
	if f.file == nil {
		return 0
	}
	if info, err := f.file.Stat(); err == nil {
		bytes = max(0, info.Size()-f.at.Offset)
	}
	for _, later := range f.after() {
		bytes += later.info.Size()
	}
	return bytes
}

// Close gives the turn to another one.
func (f *Follower) Close() error {
	if f.file != nil {
		_ = f.file.Close() // it was read only
	}
	return errors.Join(f.folder.Close(), f.turn.Close())
}

// look reads the lines that follow, and goes on to the next file at the end of one. No event is being written meanwhile, and each
// that was is on the disk: nothing is told that a crash of the host could undo.
func (f *Follower) look(ctx context.Context) error {
	unlock, err := atomicfile.Lock(ctx, f.path+lockSuffix)
	if err != nil {
		return fmt.Errorf("following audit file: %w", err)
	}
	defer unlock()
	if f.file == nil {
		if err := f.find(); err != nil || f.file == nil {
			return err
		}
	}
	for {
		rest, err := f.read()
		if err != nil || len(f.lines) > 0 {
			return err
		}
		next := f.after()
		if len(next) == 0 {
			return nil
		}
		if rest > 0 {
			f.log.Error("the last line of an audit file that was renamed is cut off: it is not shipped", "file", f.path, "bytes", rest)
		}
		if err := f.begin(next[0], 0); err != nil {
			return err
		}
	}
}

// read takes the whole lines that follow; rest is what comes after them, without an end.
func (f *Follower) read() (rest int, err error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() < f.at.Offset {
		f.log.Error("the audit file is shorter than what was read of it: somebody cut it, and events may be lost; rename it instead", "file", f.path, "read", f.at.Offset, "bytes", info.Size())
		f.at.Offset = 0 // what was shipped before is known by its ID
	}
	lines := bufio.NewReaderSize(io.NewSectionReader(f.file, f.at.Offset, info.Size()-f.at.Offset), 64<<10)
	for took := 0; took < maxLook; {
		text, length, err := nextLine(lines)
		if errors.Is(err, io.EOF) {
			return length, nil
		}
		if err != nil {
			return 0, fmt.Errorf("reading audit file %q: %w", f.path, err)
		}
		took += length
		f.lines = append(f.lines, line{text, length})
	}
	return 0, nil
}

// beside is a file that is, or was, the audit file, and has a whole line at least.
type beside struct {
	name, begins string
	info         fs.FileInfo
}

// besides lists them, the oldest first and the present one last.
func (f *Follower) besides() (list []beside) {
	entries, _ := os.ReadDir(f.folder.Name()) // where none can be read, there is none
	present := filepath.Base(f.path)
	for _, e := range entries {
		if e.Name() != present && !isRenamed(e, present) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if begins := f.begins(e.Name()); begins != "" {
			list = append(list, beside{e.Name(), begins, info})
		}
	}
	slices.SortStableFunc(list, func(a, b beside) int {
		switch {
		case a.name == present:
			return 1
		case b.name == present:
			return -1
		}
		return a.info.ModTime().Compare(b.info.ModTime())
	})
	return list
}

// begins is the digest of a file's first line, by which it is known whatever its name; empty where that is no event.
func (f *Follower) begins(name string) string {
	file, err := f.folder.Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	text, length, err := nextLine(bufio.NewReader(file))
	if err != nil || length > maxLine || strings.HasSuffix(name, ".gz") {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// after lists the files that follow the one that is read.
func (f *Follower) after() []beside {
	mine, err := f.file.Stat()
	if err != nil {
		return nil
	}
	present := filepath.Base(f.path)
	if info, err := f.folder.Stat(present); err == nil && os.SameFile(info, mine) {
		return nil
	}
	return slices.DeleteFunc(f.besides(), func(b beside) bool {
		return os.SameFile(b.info, mine) || b.name != present && !b.info.ModTime().After(mine.ModTime())
	})
}

// find opens the file that the follower before stood in.
func (f *Follower) find() error {
	list := f.besides()
	if f.at.Begins == "" { // nothing was ever read: what was renamed before is the past
		list = slices.DeleteFunc(list, func(b beside) bool { return b.name != filepath.Base(f.path) })
	}
	if len(list) == 0 {
		return nil
	}
	if f.at.Begins == "" {
		return f.begin(list[0], 0)
	}
	if i := slices.IndexFunc(list, func(b beside) bool { return b.begins == f.at.Begins }); i >= 0 {
		return f.begin(list[i], f.at.Offset)
	}
	f.log.Error("the audit file that was read last is not there any more: events of it may be lost to the sink, if they are not in a compressed one; have logrotate compress with delaycompress", "file", f.path, "read", f.at.Offset)
	i := slices.IndexFunc(list, func(b beside) bool { return b.info.ModTime().After(f.at.Kept) })
	if i < 0 {
		i = len(list) - 1
	}
	return f.begin(list[i], 0)
}

func (f *Follower) begin(b beside, offset int64) error {
	file, err := f.folder.Open(b.name)
	if err != nil {
		return fmt.Errorf("reading audit file: %w", err)
	}
	if f.file != nil {
		_ = f.file.Close() // it was read only
	}
	f.ahead = f.ahead || f.at.Begins != b.begins || f.at.Offset != offset
	f.file, f.at.Begins, f.at.Offset = file, b.begins, offset
	return nil
}
