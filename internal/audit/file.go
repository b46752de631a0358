package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// lockEvery is how often a sink asks for the lock that another worker holds.
const lockEvery = 5 * time.Millisecond

// lockSuffix makes the name of the lock file.
const lockSuffix = ".lock"

// File is a Sink that keeps events in a file of JSON lines. Two workers on one host may share it. The
// file may be renamed at any time (by logrotate): the next event begins a new one.
type File struct {
	path string
	// turn lets one append of this process in at a time; the lock file does so among processes.
	turn chan struct{}
	lock *flock.Flock
}

// OpenFile returns the sink at path. The file and its folder are made when they are missing, for this
// user alone; modes of existing ones are left as the operator chose them.
func OpenFile(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("opening audit file: %w", err)
	}
	f := &File{
		path: path,
		turn: make(chan struct{}, 1),
		lock: flock.New(path+lockSuffix, flock.SetPermissions(0o600)),
	}
	return f, f.Writable()
}

// Writable tells why an event could not be kept now. That the disk is full it does not see.
func (f *File) Writable() error {
	file, err := f.open()
	if err != nil {
		return fmt.Errorf("opening audit file: %w", err)
	}
	return file.Close()
}

// Append implements Sink: one write for each event, then one sync. It waits for its turn until ctx ends.
func (f *File) Append(ctx context.Context, events ...Event) error {
	if len(events) == 0 {
		return nil
	}
	lines := make([][]byte, 0, len(events))
	for _, e := range events {
		fitting, err := e.fit()
		if err != nil {
			return fmt.Errorf("recording event %q: %w", name(e.ID), err)
		}
		var line bytes.Buffer
		encoder := json.NewEncoder(&line) // ends the line, too
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(fitting); err != nil {
			return fmt.Errorf("recording event %q: %w: %w", fitting.ID, ErrInvalid, err)
		}
		lines = append(lines, line.Bytes())
	}
	if err := f.write(ctx, lines); err != nil {
		return fmt.Errorf("recording %d events in %q: %w", len(events), f.path, err)
	}
	return nil
}

func (f *File) write(ctx context.Context, lines [][]byte) (err error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, err := f.lock.TryLockContext(ctx, lockEvery); err != nil {
		return fmt.Errorf("waiting for the lock: %w", err)
	}
	defer func() { err = errors.Join(err, f.lock.Unlock()) }()

	file, err := f.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	torn, err := endsTorn(file)
	if err != nil {
		return err
	}
	if torn {
		// A crash cut the last line. It stays for readers to report; ours must not be glued to it.
		lines[0] = append([]byte{'\n'}, lines[0]...)
	}
	for _, line := range lines {
		if _, err := file.Write(line); err != nil {
			return err
		}
	}
	return file.Sync()
}

// open opens the file, and sees to it that a new one outlives a crash of the host.
func (f *File) open() (*os.File, error) {
	const how = os.O_RDWR | os.O_APPEND
	file, err := os.OpenFile(f.path, how, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if file, err = os.OpenFile(f.path, how|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	folder, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// endsTorn tells whether the last line lacks its end.
func endsTorn(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	_, err = file.ReadAt(last, info.Size()-1)
	return last[0] != '\n', err
}
