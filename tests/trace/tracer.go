//go:build linux && (amd64 || arm64)

package trace

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Possible tells whether programs can be traced on this system.
const Possible = true

// Main runs the program of the arguments and traces it. It returns the exit code.
func Main() int {
	runtime.LockOSThread() // ptrace obeys the thread that started the program
	if os.Getenv(variable) == become {
		fmt.Fprintln(os.Stderr, "tracing:", filtered(os.Args[1:]))
		return 1
	}
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	t := tracer{
		below: os.Getenv(variable) + "/",
		stops: json.NewEncoder(os.NewFile(3, "stops")), orders: bufio.NewReader(os.NewFile(4, "orders")),
		within: map[int]*Stop{}, known: map[int]bool{},
	}
	code, err := t.run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "tracing:", err)
		return 1
	}
	return code
}

type tracer struct {
	below  string
	stops  *json.Encoder
	orders *bufio.Reader
	// within are the threads that are inside a system call, and what it changes, if anything.
	within map[int]*Stop
	known  map[int]bool
}

// become, in place of a folder, asks for the program itself, with a filter before its system calls.
const become = "become"

// changing are the system calls that may change a file in a way that is told. The program stops at no other.
var changing = []uint32{syscall.SYS_OPENAT, syscall.SYS_RENAMEAT, syscall.SYS_UNLINKAT, syscall.SYS_WRITE}

// filtered makes this process the program, of whose system calls only those that may change something stop it: see
// seccomp(2). It returns when that failed.
func filtered(args []string) error {
	const number = 0 // its offset in struct seccomp_data
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number}}
	for i, call := range changing {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jt: uint8(len(changing) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE},
	)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(args[0], args, environment())
}

// environment is what the program shall have of this one's.
func environment() (list []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, variable+"=") {
			list = append(list, v)
		}
	}
	return list
}

func (t *tracer) run(args []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(self, append([]string{self}, args...), &syscall.ProcAttr{
		Env: append(environment(), variable+"="+become), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil {
		return 0, err
	}
	t.known[pid] = true
	const options = syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACECLONE | syscall.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(pid, options); err != nil {
		return 0, err
	}
	if err := syscall.PtraceCont(pid, 0); err != nil {
		return 0, err
	}
	for {
		tid, err := syscall.Wait4(-1, &status, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, err
		case status.Exited() && tid == pid:
			return status.ExitStatus(), nil
		case status.Signaled() && tid == pid:
			return 128 + int(status.Signal()), nil
		case !status.Stopped():
			continue
		}
		signal, err := t.stopped(tid, status)
		if err != nil {
			return 0, err
		}
		goOn := syscall.PtraceCont
		if t.within[tid] != nil {
			goOn = syscall.PtraceSyscall // to the end of the call
		}
		if err := goOn(tid, int(signal)); err != nil && !errors.Is(err, syscall.ESRCH) {
			return 0, err
		}
	}
}

// stopped handles one stop of a thread, and returns the signal that it shall have.
func (t *tracer) stopped(tid int, status syscall.WaitStatus) (syscall.Signal, error) {
	switch signal := status.StopSignal(); {
	case signal == syscall.SIGTRAP|0x80, status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
		return 0, t.call(tid)
	case status.TrapCause() > 0: // a thread begins, or the program
		return 0, nil
	case signal == syscall.SIGSTOP && !t.known[tid]: // the thread that began
		t.known[tid] = true
		return 0, nil
	default:
		return signal, nil
	}
}

// info is struct ptrace_syscall_info (linux/ptrace.h).
type info struct {
	op     uint8
	_      [3]uint8
	arch   uint32
	ip, sp uint64
	// number and arguments at the entry; value and whether it is an error at the exit.
	number uint64
	args   [6]uint64
	_      [2]uint64
}

const (
	getSyscallInfo = 0x420e
	opSeccomp      = 3 // before a call that the filter names; else it is after one
)

func (t *tracer) call(tid int) error {
	var i info
	_, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(i), uintptr(unsafe.Pointer(&i)), 0, 0)
	if errors.Is(errno, syscall.ESRCH) {
		return nil // it was killed
	} else if errno != 0 {
		return errno
	}
	if i.op == opSeccomp {
		s := t.change(tid, i)
		if s == nil {
			return nil
		}
		t.within[tid] = s
		return t.hold(*s)
	}
	if s := t.within[tid]; s != nil {
		delete(t.within, tid)
		s.Done, s.Error = true, uint8(i.args[0]) != 0
		return t.hold(*s)
	}
	return nil
}

// change is what a system call is about to change, nil for most.
func (t *tracer) change(tid int, i info) *Stop {
	s := &Stop{}
	switch i.number {
	case syscall.SYS_OPENAT:
		if i.args[2]&syscall.O_CREAT == 0 {
			return nil
		}
		s.Call, s.Path = Make, t.path(tid, i.args[0], i.args[1])
		name, fresh := final(s.Path)
		if !fresh {
			return nil
		}
		s.Path = name
	case syscall.SYS_RENAMEAT:
		s.Call, s.Path = Replace, t.path(tid, i.args[2], i.args[3])
	case syscall.SYS_UNLINKAT:
		s.Call, s.Path = Remove, t.path(tid, i.args[0], i.args[1])
		if _, fresh := final(s.Path); fresh {
			return nil
		}
	case syscall.SYS_WRITE:
		s.Call, s.Path = Append, t.file(tid, i.args[0])
		if _, fresh := final(s.Path); fresh || !strings.HasPrefix(s.Path, t.below) {
			return nil
		}
		s.Text = string(t.memory(tid, i.args[1], int(min(i.args[2], 1<<20))))
	default:
		return nil
	}
	if !strings.HasPrefix(s.Path, t.below) {
		return nil
	}
	return s
}

// final is the name that a file shall have which is made under another one, as package atomicfile does.
func final(path string) (string, bool) {
	folder, name := filepath.Split(path)
	fresh := strings.HasPrefix(name, ".") && strings.HasSuffix(name, ".new")
	return folder + strings.TrimSuffix(strings.TrimPrefix(name, "."), ".new"), fresh
}

// file is what an open file is called.
func (t *tracer) file(tid int, fd uint64) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd)))
	return name
}

// path is a path of the program's memory, below an open folder.
func (t *tracer) path(tid int, folder, address uint64) string {
	name, _, ended := strings.Cut(string(t.memory(tid, address, unix.PathMax)), "\x00")
	switch {
	case !ended:
		return ""
	case filepath.IsAbs(name):
		return name
	case int32(folder) == unix.AT_FDCWD:
		here, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
		return filepath.Join(here, name)
	default:
		return filepath.Join(t.file(tid, folder), name)
	}
}

// memory is what the program has at an address: so many bytes, or as many as there are.
func (t *tracer) memory(tid int, address uint64, length int) []byte {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return nil // it was killed
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, length)
	n, _ := f.ReadAt(b, int64(address))
	return b[:n]
}

// hold tells of a stop and waits until it is told to go on.
func (t *tracer) hold(s Stop) error {
	if err := t.stops.Encode(s); err != nil {
		return err
	}
	_, err := t.orders.ReadString('\n')
	return err
}
