//go:build unix

package atomicfile

import (
	"io/fs"
	"syscall"
)

// owner is the user whom a file belongs to.
func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }
