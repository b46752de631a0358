package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

func cleanAbsolute(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

// trustFolder refuses a folder in which anybody can exchange a file for their own.
func trustFolder(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: %q is no folder", providers.ErrInvalid, path)
	case info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("%w: everybody may write to %q; take that right away with `chmod o-w`", providers.ErrDenied, path)
	}
	return nil
}

func readState(dir *os.Root) (*state, error) {
	data, err := readFile(dir, stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return newState(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", stateName, err)
	}
	st, err := parseState(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", stateName, err)
	}
	return st, nil
}

func versionFile(id string) string { return versionsName + "/" + id + ".json" }

// readVersion reads a version that st knows; ErrNotFound for another, also when it was pruned meanwhile.
func (s *store) readVersion(dir *os.Root, st *state, id string) (secret.Bundle, error) {
	if !st.has(id) {
		return secret.Bundle{}, fmt.Errorf("%w: no such version", providers.ErrNotFound)
	}
	b, err := readBundle(dir, versionFile(id))
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	now, err := readState(dir)
	if err != nil {
		return secret.Bundle{}, err
	}
	if !now.has(id) {
		return secret.Bundle{}, fmt.Errorf("%w: version %s was pruned", providers.ErrNotFound, id)
	}
	return secret.Bundle{}, fmt.Errorf("%w: the value of version %s is missing", ErrMalformed, id)
}

func readBundle(dir *os.Root, name string) (secret.Bundle, error) {
	data, err := readFile(dir, name)
	defer clear(data)
	if err != nil {
		return secret.Bundle{}, err
	}
	b, err := secret.Decode(data)
	if err != nil {
		return secret.Bundle{}, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return b, nil
}

func (s *store) writeVersion(dir *os.Root, id string, b secret.Bundle) error {
	values, err := dir.OpenRoot(versionsName)
	if err != nil {
		return err
	}
	defer func() { _ = values.Close() }()
	data, err := b.Encode()
	if err != nil {
		return err
	}
	defer clear(data)
	if err := atomicfile.Write(values, id+".json", data, 0o600, nil); err != nil {
		return err
	}
	return s.wrote("value")
}

func readFile(dir *os.Root, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		clear(data)
		data, err = nil, fmt.Errorf("%w: it is larger than %d bytes", ErrMalformed, maxFileSize)
	}
	return data, err
}

func (s *store) openRoot() (*os.Root, error) {
	if err := trustFolder(s.root); err != nil {
		return nil, err
	}
	return os.OpenRoot(s.root)
}

// makeFolder makes the secret's folder where it is missing, part by part, and opens it.
func (s *store) makeFolder() (*os.Root, error) {
	root, err := s.openRoot()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	path := "."
	for part := range strings.SplitSeq(s.path+"/"+versionsName, "/") {
		above, err := root.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		err = above.Mkdir(part, 0o700)
		if err == nil {
			err = errors.Join(atomicfile.Sync(above), s.wrote("folder"))
		}
		if err := errors.Join(above.Close(), ignore(err, fs.ErrExist)); err != nil {
			return nil, err
		}
		path += "/" + part
	}
	return root.OpenRoot(s.path)
}

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
