package file

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
