package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Replaceable tells why no rename could take the place of what is at the name, although files can be made in dir: of a sticky folder,
// a file that is mounted by itself, one that may not be changed. It is fs.ErrPermission; nil where nothing is there.
func Replaceable(dir *os.Root, name string) error {
	info, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	folder, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if me := os.Geteuid(); folder.Mode()&fs.ModeSticky != 0 && me != 0 && me != owner(info) && me != owner(folder) {
		return fmt.Errorf("%w: in this folder (it is sticky) only user %d may replace it; run the worker as that user, or as root", fs.ErrPermission, owner(info))
	}
	return held(dir, name)
}
