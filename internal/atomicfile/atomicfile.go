// Package atomicfile replaces files so that whoever reads them, and whoever finds them after a crash, has
// the old content or the new one, whole. All of it happens inside one folder that is held open, so that
// nobody can exchange the folder in the middle; and what a crash leaves behind, the next write removes.
//
// It needs a local file system: rename and flock are not what they should be on some network ones.
package atomicfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// lockEvery is how often a lock that another one holds is asked for.
const lockEvery = 5 * time.Millisecond

// Lock takes the lock at path, which it makes when it is missing, and waits for it until ctx ends. It
// holds among processes and among goroutines. The lock file stays: removing it would break the lock.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	return lock(ctx, path, flock.New(path, flock.SetPermissions(0o600)))
}

// LockDir is Lock on a folder itself, where no file may be left.
func LockDir(ctx context.Context, path string) (unlock func(), err error) {
	return lock(ctx, path, flock.New(path, flock.SetFlag(os.O_RDONLY)))
}

func lock(ctx context.Context, path string, l *flock.Flock) (func(), error) {
	if _, err := l.TryLockContext(ctx, lockEvery); err != nil {
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	return func() { _ = l.Unlock() }, nil // closing the descriptor cannot fail to unlock
}

// Write replaces the file called name in dir, or makes it, with exactly this mode. When it returns nil,
// the content outlives a crash of the host. The caller holds a lock against other writers of the name.
// prepare, unless nil, may still change the new file, its owner for one, before it takes the name.
func Write(dir *os.Root, name string, data []byte, mode fs.FileMode, prepare func(*os.File) error) error {
	if err := Discard(dir, name); err != nil {
		return err
	}
	if err := fill(dir, fresh(name), data, mode, prepare); err != nil {
		return errors.Join(err, Discard(dir, name))
	}
	return replace(dir, name)
}

// Try tells whether Write could work now: it does all of it but the content and the last step, and leaves nothing behind. With an empty
// name it tells so of any file in the folder.
func Try(dir *os.Root, name string, mode fs.FileMode, prepare func(*os.File) error) error {
	if err := Discard(dir, name); err != nil {
		return err
	}
	if name != "" {
		if err := Replaceable(dir, name); err != nil {
			return err
		}
	}
	return errors.Join(fill(dir, fresh(name), nil, mode, prepare), Discard(dir, name))
}

// Symlink is Write for a symbolic link.
func Symlink(dir *os.Root, target, name string) error {
	if err := Discard(dir, name); err != nil {
		return err
	}
	if err := dir.Symlink(target, fresh(name)); err != nil {
		return err
	}
	return replace(dir, name)
}

// Discard removes what a Write or Symlink of name left that was cut short.
func Discard(dir *os.Root, name string) error { return Remove(dir, fresh(name)) }

// Remove removes a file. One that does not exist is not an error.
func Remove(dir *os.Root, name string) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Sync makes what was created, renamed and removed in dir outlive a crash of the host.
func Sync(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fresh is the name of a file until it is whole. Under the lock there is one of each at most.
func fresh(name string) string { return "." + name + ".new" }

func fill(dir *os.Root, name string, data []byte, mode fs.FileMode, prepare func(*os.File) error) (err error) {
	// O_EXCL: a link that somebody put there is not followed.
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(f); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return f.Sync()
}

func replace(dir *os.Root, name string) error {
	if err := dir.Rename(fresh(name), name); err != nil {
		return errors.Join(err, Discard(dir, name))
	}
	return Sync(dir)
}
