//go:build !unix

package exec

import osexec "os/exec"

// ownGroup does nothing where there are no process groups: only the program itself is killed.
func ownGroup(*osexec.Cmd) {}

func killGroup(program *osexec.Cmd) error { return program.Process.Kill() }
