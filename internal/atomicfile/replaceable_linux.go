package atomicfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// held tells why nothing can take the place of a file although the folder may be written: it is mounted there by itself, as container
// engines do with single files, or it may not be changed at all.
func held(dir *os.Root, name string) error {
	var is unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, filepath.Join(dir.Name(), name), unix.AT_SYMLINK_NOFOLLOW, 0, &is); err != nil {
		return nil //nolint:nilerr // an old kernel cannot tell, and the rename will
	}
	switch {
	case is.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return fmt.Errorf("%w: it is mounted there by itself, and no other file can take its place; mount its folder instead", fs.ErrPermission)
	case is.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0:
		return fmt.Errorf("%w: it may not be replaced; see `lsattr`, and take that away with `chattr -i -a`", fs.ErrPermission)
	}
	return nil
}
