//go:build unix

package atomicfile

import "syscall"

// Writable tells whether this process may make and replace files in a folder, changing nothing.
func Writable(dir string) bool {
	const write, search = 2, 1 // access(2)
	return syscall.Access(dir, write|search) == nil
}
