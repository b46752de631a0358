// Package exec runs a program of the worker's host and speaks a JSON protocol with it on standard input
// and output: docs/exec-protocol.md. A spec names the program; what that name runs, the worker
// configuration alone says.
package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	osexec "os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Protocol is the version of what is said on standard input.
const Protocol = "keyturn/exec/v1"

const (
	// searchPath is the whole environment of a program.
	searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// defaultTimeout bounds a program whose configuration says nothing, longestTimeout any other.
	defaultTimeout = inventory.Duration(10 * time.Second)
	longestTimeout = inventory.Duration(2 * time.Minute)
	// afterKill is how long the pipes of a program are waited for that ended or was killed.
	afterKill = time.Second
	// maxOutput bounds each of the two outputs.
	maxOutput = 64 << 10
)

// Descriptor describes the type exec: check.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "exec",
		Summary: "runs a program that the worker configuration names: health check, smoke test of a key",
		Check: &providers.CheckType{
			Config: func() any { return new(CheckConfig) },
			Open: func(e providers.Environment, _, c any) (providers.Check, error) {
				return &check{program: e.Program, config: *c.(*CheckConfig)}, nil
			},
		},
	}
}

// CheckConfig is a check by a program.
type CheckConfig struct {
	// Program is a name under programs in the worker configuration.
	Program string `json:"program"`
	// Timeout bounds a run, after which the program and its children are killed; 10s when empty, 2m at
	// most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

var programName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Problems implements the question of package strictyaml.
func (c *CheckConfig) Problems() []strictyaml.Problem {
	var problems []strictyaml.Problem
	if !programName.MatchString(c.Program) {
		problems = append(problems, strictyaml.Problem{
			Field: "program", What: "is not the name of a program", Write: "a name under programs in the worker configuration, not a command line",
		})
	}
	if c.Timeout < 0 || c.Timeout > longestTimeout {
		problems = append(problems, strictyaml.Problem{
			Field: "timeout", What: fmt.Sprintf("is %s, and a program may run for at most %s", c.Timeout, longestTimeout), Write: "10s",
		})
	}
	return problems
}

type check struct {
	program func(name string) ([]string, error)
	config  CheckConfig
}

// request is what a program reads.
type request struct {
	Protocol  string  `json:"protocol"`
	Operation string  `json:"operation"`
	Instance  string  `json:"instance,omitempty"`
	Key       key.Ref `json:"key,omitzero"`
	// Secret is what Bundle.Encode wrote; missing in the check of an instance.
	Secret json.RawMessage `json:"secret,omitempty"`
}

// reply is what a program writes. Fields that it has besides are for later versions.
type reply struct {
	OK      *bool  `json:"ok"`
	Refused bool   `json:"refused"`
	Message string `json:"message"`
}

// Check implements providers.Check.
func (c *check) Check(ctx context.Context, in providers.CheckInput) error {
	if err := c.ask(ctx, in); err != nil {
		return fmt.Errorf("checking with program %s: %w", c.config.Program, err)
	}
	return nil
}

func (c *check) ask(ctx context.Context, in providers.CheckInput) error {
	command, err := c.program(c.config.Program)
	if err != nil {
		return err
	}
	question, err := encode(in)
	if err != nil {
		return err
	}
	defer clear(question)
	output, err := c.run(ctx, command, question, in.Bundle)
	if err != nil {
		return err
	}
	return judge(output, in.Bundle)
}

func encode(in providers.CheckInput) ([]byte, error) {
	r := request{Protocol: Protocol, Operation: "check", Instance: in.Instance, Key: in.Key}
	if len(in.Bundle.Names()) > 0 {
		fields, err := in.Bundle.Encode()
		if err != nil {
			return nil, errors.New("the key cannot be written as JSON")
		}
		defer clear(fields)
		r.Secret = fields
	}
	return json.Marshal(r) //nolint:gosec // the program is whom the key is handed to
}

// run runs the program and returns what it wrote on standard output.
func (c *check) run(ctx context.Context, command []string, question []byte, sent secret.Bundle) ([]byte, error) {
	timeout := c.config.Timeout.Std()
	if timeout <= 0 {
		timeout = defaultTimeout.Std()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	stdout, stderr := &bounded{refuse: true}, &bounded{}
	program := osexec.CommandContext(ctx, command[0], command[1:]...)
	program.Env = []string{searchPath}
	program.Dir = "/"
	program.Stdin = bytes.NewReader(question)
	program.Stdout, program.Stderr = stdout, stderr
	program.WaitDelay = afterKill
	ownGroup(program)

	err := program.Run()
	switch words := quote(string(stderr.kept), sent); {
	case err == nil:
		return stdout.kept, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it was killed, as it had not answered when its time was over: %w%s", ctx.Err(), words)
	case stdout.full:
		return nil, fmt.Errorf("it wrote more than %d bytes on standard output%s", maxOutput, words)
	case errors.Is(err, osexec.ErrWaitDelay):
		_ = killGroup(program) // it may have ended meanwhile
		return nil, fmt.Errorf("it ended and left a process behind that holds its output, which was killed%s", words)
	default:
		return nil, fmt.Errorf("it failed: %w%s", err, words)
	}
}

// quote is the end of an error that repeats what the program said.
func quote(words string, sent secret.Bundle) string {
	words = outside.Text(strings.TrimSpace(sent.Scrub(words)), outside.MaxText)
	if words == "" {
		return ""
	}
	return ": " + words
}

// judge reads the reply.
func judge(output []byte, sent secret.Bundle) error {
	decoder := json.NewDecoder(bytes.NewReader(output))
	var r reply
	if err := decoder.Decode(&r); err != nil {
		// What it wrote instead may be the key.
		return errors.New("its standard output is not a JSON object as docs/exec-protocol.md has it")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("its standard output is more than one JSON object")
	}
	words := quote(r.Message, sent)
	switch {
	case r.OK == nil:
		return errors.New("its reply lacks the field ok")
	case *r.OK && r.Refused:
		return errors.New("its reply says both ok and refused")
	case *r.OK:
		return nil
	case r.Refused && len(sent.Names()) > 0:
		return fmt.Errorf("%w%s", providers.ErrKeyRefused, words)
	}
	return fmt.Errorf("it says that all is not well%s", words)
}

// bounded keeps the first maxOutput bytes. What comes after is dropped or, for refuse, an error for the
// writer.
type bounded struct {
	kept         []byte
	refuse, full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := maxOutput - len(b.kept)
	if len(p) <= room {
		b.kept = append(b.kept, p...)
		return len(p), nil
	}
	b.full = true
	b.kept = append(b.kept, p[:room]...)
	if b.refuse {
		return room, io.ErrShortWrite
	}
	return len(p), nil
}
