package file

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/providers"
)

// replaceable tells the mode that the file at the final path will have, or why nothing may take its place; old is nil for a new one.
func (t *target) replaceable(dir *os.Root, name string, old fs.FileInfo) (fs.FileMode, error) {
	mode := t.mode
	if old == nil {
		if mode == 0 {
			mode = defaultMode
		}
		return mode, nil
	}
	if mode == 0 {
		mode = old.Mode().Perm()
	}
	if mode&^maxMode != 0 {
		return 0, fmt.Errorf("%w: its mode %04o gives others more than reading by the group; take that away with `chmod %04o`, or write a mode in the inventory", providers.ErrDenied, mode, mode&maxMode)
	}
	is := old.Sys().(*syscall.Stat_t)
	if is.Nlink > 1 {
		return 0, fmt.Errorf("%w: it has %d names (hard links), and whoever reads another one would stay on the key that goes; give it one name", providers.ErrDenied, is.Nlink)
	}
	if err := atomicfile.Replaceable(dir, name); err != nil {
		return 0, fmt.Errorf("%w: %w", providers.ErrDenied, err)
	}
	return mode, nil
}

// likeBefore gives the new file the rights of the one that it replaces; a new one gets, from root, owner and group of its folder, else
// the group, where the worker may give it.
func likeBefore(f *os.File, dir *os.Root, name string, old fs.FileInfo) error {
	if old != nil {
		if err := own(f, old); err != nil {
			return err
		}
		return keepAttributes(f, dir, name)
	}
	folder, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return own(f, folder)
	}
	_ = f.Chown(-1, int(folder.Sys().(*syscall.Stat_t).Gid)) // who is in that group may; for others it stays the worker's
	return nil
}

// own gives a file the owner and group of another one.
func own(f *os.File, like fs.FileInfo) error {
	now, err := f.Stat()
	if err != nil {
		return err
	}
	want, is := like.Sys().(*syscall.Stat_t), now.Sys().(*syscall.Stat_t)
	if want.Uid == is.Uid && want.Gid == is.Gid {
		return nil
	}
	if err := f.Chown(int(want.Uid), int(want.Gid)); err != nil {
		return fmt.Errorf("%w: the file belongs to user %d and group %d, which the worker may not give it; run the worker as that user, or as root: %w",
			providers.ErrDenied, want.Uid, want.Gid, err)
	}
	return nil
}
