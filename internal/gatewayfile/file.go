package gatewayfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

const (
	// maxFileSize bounds what is read into memory: some hundred thousand keys.
	maxFileSize = 64 << 20
	lockSuffix  = ".lock"
)

var (
	// ErrMalformed: a key or usage file is not what it should be.
	ErrMalformed = errors.New("malformed file")
	// ErrOthersMayWrite: others than the owner of a key or usage file may write it.
	ErrOthersMayWrite = errors.New("others may write the file")
	// ErrUnchanged is what an edit of ChangeKeys returns when there is nothing to change.
	ErrUnchanged = errors.New("unchanged")
)

// Open opens a file that nobody but its owner can have written. Whoever can write the key file can let themselves in.
func Open(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%w: it is no file", ErrMalformed)
	case info.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("%w (mode %04o); nothing in it is trusted until `chmod 600`", ErrOthersMayWrite, info.Mode().Perm())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func readAll(file io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("%w: it is larger than %d bytes", ErrMalformed, maxFileSize)
	}
	return data, err
}

// Create makes an empty key file where there is none yet. One that exists is left as it is.
func Create(ctx context.Context, path string) error {
	return locked(ctx, path, func() error {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return write(path, KeyFile{Schema: keysSchema, Keys: []Record{}})
	})
}

// ChangeKeys reads the key file, lets edit alter it, and replaces it atomically, all under its lock. An error
// of edit changes nothing; ErrUnchanged does so without being one.
func ChangeKeys(ctx context.Context, path string, edit func(*KeyFile) error) error {
	return locked(ctx, path, func() error {
		f, err := ReadKeys(path)
		if err != nil {
			return err
		}
		switch err := edit(f); {
		case errors.Is(err, ErrUnchanged):
			return nil
		case err != nil:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return write(path, f)
	})
}

// TryKeys tells whether ChangeKeys could write the key file at path now: it does all of that but the change.
func TryKeys(ctx context.Context, path string) error {
	return locked(ctx, path, func() error {
		dir, err := os.OpenRoot(filepath.Dir(path))
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }()
		return atomicfile.Try(dir, filepath.Base(path), 0o600, nil)
	})
}

func locked(ctx context.Context, path string, act func() error) error {
	unlock, err := atomicfile.Lock(ctx, path+lockSuffix)
	if err != nil {
		return err
	}
	defer unlock()
	return act()
}

// write replaces a file whose lock is held.
func write(path string, content any) error {
	data, err := encode(content)
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() { _ = dir.Close() }()
	if err := atomicfile.Write(dir, filepath.Base(path), data, 0o600, nil); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

func encode(content any) ([]byte, error) {
	data, err := json.MarshalIndent(content, "", "  ")
	return append(data, '\n'), err
}
