//go:build !unix

package atomicfile

import (
	"io/fs"
	"os"
)

// owner is this process's user: that a file belongs to somebody else cannot be told here before the rename tells.
func owner(fs.FileInfo) int { return os.Geteuid() }
