//go:build unix

package exec

import (
	"errors"
	"os"
	osexec "os/exec"
	"syscall"
)

// ownGroup gives the program a process group, so that its children die with it, but for those that leave the group.
func ownGroup(program *osexec.Cmd) {
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.Cancel = func() error { return killGroup(program) }
}

// killGroup kills all of the program's group. While one of them lives, its number is not given away.
func killGroup(program *osexec.Cmd) error {
	err := syscall.Kill(-program.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
