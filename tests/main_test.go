// Package tests runs keyturn as people do: real processes of worker, starter, Temporal server and demo
// services, which are killed and asked from outside.
package tests

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/keyturn/keyturn/tests/trace"
)

// programs is where the built programs are: KEYTURN_PROGRAMS, for who has built them already, or a folder of our own.
var programs = os.Getenv("KEYTURN_PROGRAMS")

func TestMain(m *testing.M) {
	if trace.Asked() {
		os.Exit(trace.Main())
	}
	flag.Parse()
	if atOnce := flag.Lookup("test.parallel"); atOnce.Value.String() == atOnce.DefValue { // nobody asked for another
		_ = flag.Set(atOnce.Name, strconv.Itoa(3*runtime.GOMAXPROCS(0))) // most of a test is waiting
	}
	code, err := withPrograms(func() int {
		defer endShared()
		return m.Run()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withPrograms(run func() int) (int, error) {
	if programs != "" {
		return run(), writePage()
	}
	var err error
	if programs, err = os.MkdirTemp("", "keyturn-programs-"); err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(programs) }()
	for name, folder := range map[string]string{"worker": "../worker", "starter": "../starter", "sandbox": "../sandbox"} {
		build := exec.Command("go", "build", "-o", filepath.Join(programs, name), ".")
		build.Dir = folder // the sandbox is a module of its own
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return run(), writePage()
}
