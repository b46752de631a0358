// Package exec runs a program of the worker's host and speaks a JSON protocol with it on standard input
// and output: docs/exec-protocol.md. A spec names the program; what that name runs, the worker
// configuration alone says.
package exec

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	osexec "os/exec"
	"regexp"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/attestation"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
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
	// maxOutput bounds the standard output.
	maxOutput = 64 << 10
)

// reasons are the words that a program may say why, and the only ones of it that are repeated: a key may be in any others.
var reasons = []string{"unreachable", "timeout", "unhealthy", "unknown-instance", "denied", "misconfigured"}

// Descriptor describes the type exec: check, attestation, purge hook and freezer.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "exec",
		Summary: "runs a program of the worker's host: attestation, checks, purge and freeze hooks",
		Check: providers.Make(func(e providers.Environment, c *Config) (providers.Check, error) {
			return &check{asker{program: e.Program, config: *c}}, nil
		}),
		Attestor: providers.Make(func(e providers.Environment, c *Config) (providers.Attestor, error) {
			return &attestor{asker: asker{program: e.Program, config: *c}, now: e.Now}, nil
		}),
		Purge: providers.Make(func(e providers.Environment, c *Config) (providers.Purger, error) {
			return &purger{asker{program: e.Program, config: *c}}, nil
		}),
		Freezer: providers.Make(func(e providers.Environment, c *Config) (providers.Freezer, error) {
			return &freezer{asker{program: e.Program, config: *c}}, nil
		}),
	}
}

// Config says which program answers.
type Config struct {
	// Program is a name under programs in the worker configuration.
	Program string `json:"program"`
	// Timeout bounds a run, after which the program and its process group are killed; 10s when empty, 2m at
	// most.
	Timeout inventory.Duration `json:"timeout,omitzero"`
}

var programName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Programs are the names that it runs, for those who bound them.
func (c *Config) Programs() []string { return []string{c.Program} }

// Place is which program is asked of which instance: all that an attestation's question says.
func (c *Config) Place(instance string) string { return c.Program + " " + instance }

// Problems implements the question of package strictyaml.
func (c *Config) Problems() []strictyaml.Problem {
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

// asker puts questions to a program.
type asker struct {
	program func(name string) ([]string, error)
	config  Config
}

type check struct{ asker }

type attestor struct {
	asker
	now func() time.Time
}

// request is what a program reads.
type request struct {
	Protocol  string  `json:"protocol"`
	Operation string  `json:"operation"`
	Instance  string  `json:"instance,omitempty"`
	Key       key.Ref `json:"key,omitzero"`
	// Freeze is what deployments are frozen for, of which an unfreeze names the incident alone.
	Freeze *providers.Freeze `json:"freeze,omitempty"`
	// Secret is what Bundle.Encode wrote; missing in the check of an instance.
	Secret json.RawMessage `json:"secret,omitempty"`
}

// reply is what a program writes. Fields that it has besides are for later versions.
type reply struct {
	OK      *bool  `json:"ok"`
	Refused bool   `json:"refused"`
	Reason  string `json:"reason"`
	// Message is for whoever runs the program: of it, only the length is told.
	Message string `json:"message"`
	// Keys are the fingerprints or key IDs that an instance uses now.
	Keys []string `json:"keys"`
}

// Check implements providers.Check.
func (c *check) Check(ctx context.Context, in providers.CheckInput) error {
	if err := c.ask(ctx, in); err != nil {
		return fmt.Errorf("checking with program %s: %w", c.config.Program, err)
	}
	return nil
}

func (c *check) ask(ctx context.Context, in providers.CheckInput) error {
	output, err := c.put(ctx, request{Operation: "check", Instance: in.Instance, Key: in.Key}, in.Bundle)
	if err != nil {
		return err
	}
	return judge(output, len(in.Bundle.Names()) > 0)
}

// Attest implements providers.Attestor. The program is run once for each instance.
func (a *attestor) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	return attestation.Each(ctx, instances, func(ctx context.Context, instance string) (key.Statement, error) {
		name := "program " + a.config.Program
		output, err := a.put(ctx, request{Operation: "attest", Instance: instance}, secret.Bundle{})
		if err != nil {
			return key.Statement{}, fmt.Errorf("asking %s: %w", name, err)
		}
		keys, err := stated(output)
		if err != nil {
			return key.Statement{}, fmt.Errorf("asking %s: %w", name, err)
		}
		return key.Statement{Instance: instance, Keys: keys, ObservedAt: a.now(), Source: name}, nil
	})
}

// stated reads the reply to an attestation.
func stated(output []byte) ([]string, error) {
	r, err := decode(output)
	switch {
	case err != nil:
		return nil, err
	case r.OK == nil:
		return nil, errors.New("its reply lacks the field ok")
	case !*r.OK:
		return nil, fmt.Errorf("it cannot tell %s", r.why())
	}
	keys := make([]any, 0, len(r.Keys))
	for _, k := range r.Keys {
		keys = append(keys, k)
	}
	return attestation.Keys(keys)
}

// put runs the program with a question, and returns what it wrote on standard output.
func (c *asker) put(ctx context.Context, r request, b secret.Bundle) ([]byte, error) {
	command, err := c.program(c.config.Program)
	if err != nil {
		return nil, err
	}
	question, err := encode(r, b)
	if err != nil {
		return nil, err
	}
	defer clear(question)
	return c.run(ctx, command, question)
}

func encode(r request, b secret.Bundle) ([]byte, error) {
	r.Protocol = Protocol
	if len(b.Names()) > 0 {
		fields, err := b.Encode()
		if err != nil {
			return nil, errors.New("the key cannot be written as JSON")
		}
		defer clear(fields)
		r.Secret = fields
	}
	return json.Marshal(r) //nolint:gosec // the program is whom the key is handed to
}

// run runs the program and returns what it wrote on standard output. Of what it wrote on standard error, only the length is
// told.
func (c *asker) run(ctx context.Context, command []string, question []byte) ([]byte, error) {
	timeout := c.config.Timeout.Std()
	if timeout <= 0 {
		timeout = defaultTimeout.Std()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	stdout, stderr := &bounded{}, new(counted)
	program := osexec.CommandContext(ctx, command[0], command[1:]...)
	program.Env = []string{searchPath}
	program.Dir = "/"
	program.Stdin = bytes.NewReader(question)
	program.Stdout, program.Stderr = stdout, stderr
	program.WaitDelay = afterKill
	ownGroup(program)

	err := program.Run()
	if program.Process != nil {
		_ = killGroup(program) // whom it left behind
	}
	switch {
	case err == nil:
		return stdout.kept, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it was killed, as it had not answered when its time was over: %w (%s)", ctx.Err(), stderr)
	case stdout.full:
		return nil, fmt.Errorf("it wrote more than %d bytes on standard output (%s)", maxOutput, stderr)
	case errors.Is(err, osexec.ErrWaitDelay):
		return nil, fmt.Errorf("it ended and left a process behind that holds its output: its process group was killed, and a process that left its group may live on (%s)", stderr)
	default:
		return nil, fmt.Errorf("it failed: %w (%s)", err, stderr)
	}
}

// why is what an error says of a reply.
func (r reply) why() string {
	reason := cmp.Or(r.Reason, "no reason")
	if r.Reason != "" && !slices.Contains(reasons, r.Reason) {
		reason = "a reason that keyturn does not know"
	}
	return fmt.Sprintf("(%s; a message of %d bytes that is not repeated here)", reason, len(r.Message))
}

// decode reads a reply.
func decode(output []byte) (reply, error) {
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(output, []byte("\uFEFF")))) // some begin their UTF-8 with it
	var r reply
	if err := decoder.Decode(&r); err != nil {
		// What it wrote instead may be the key.
		return reply{}, errors.New("its standard output is not a JSON object as docs/exec-protocol.md has it")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return reply{}, errors.New("its standard output is more than one JSON object")
	}
	return r, nil
}

// judge tells what the reply to a check or a purge means; sent: a key went with the question.
func judge(output []byte, sent bool) error {
	r, err := decode(output)
	if err != nil {
		return err
	}
	switch {
	case r.OK == nil:
		return errors.New("its reply lacks the field ok")
	case *r.OK && r.Refused:
		return errors.New("its reply says both ok and refused")
	case *r.OK:
		return nil
	case r.Refused && sent:
		return fmt.Errorf("%w %s", providers.ErrKeyRefused, r.why())
	}
	return fmt.Errorf("it says that all is not well %s", r.why())
}

// bounded keeps the first maxOutput bytes. What comes after is an error for the writer.
type bounded struct {
	kept []byte
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := maxOutput - len(b.kept)
	if len(p) <= room {
		b.kept = append(b.kept, p...)
		return len(p), nil
	}
	b.full = true
	b.kept = append(b.kept, p[:room]...)
	return room, io.ErrShortWrite
}

// counted counts what is written, and keeps nothing.
type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}

func (c *counted) String() string { return fmt.Sprintf("%d bytes on its standard error", *c) }
