//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package atomicfile

import (
	"errors"
	"os"
)

// tryTake takes no lock where there is none that programs in all languages know.
func tryTake(*os.File) (taken bool, err error) { return false, errors.ErrUnsupported }

func release(*os.File) {}
