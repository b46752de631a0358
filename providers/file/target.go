package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

const (
	instancePlaceholder = "{instance}"
	defaultMode         = fs.FileMode(0o600)
	// maxMode is all that others than the owner may be given: reading, by the group.
	maxMode = fs.FileMode(0o640)
)

var instanceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// TargetConfig is a file that a consumer reads its key from.
type TargetConfig struct {
	// Path of the file; {instance} in it stands for the instance.
	Path string `json:"path"`
	// Mode of the file, in octal, "0640" at most; without it a file keeps the mode that it has, and a new one gets "0600".
	Mode string `json:"mode,omitempty"`
	// Format is plain (default), json or env.
	Format Format `json:"format,omitempty"`
	// Field is the one that plain writes; "value" by default.
	Field string `json:"field,omitempty"`
	// Fields are those that json writes; all by default.
	Fields []string `json:"fields,omitempty"`
	// Variables name the variable that env writes for each field, such as {value: PAYMENTS_KEY}.
	Variables map[string]string `json:"variables,omitempty"`
	// Reader is who reads an env file, since they differ in quotes: shell, systemd or docker. Without it no new key is taken that needs
	// some.
	Reader Reader `json:"reader,omitempty"`
}

// Place is the file that is written for an instance.
func (c *TargetConfig) Place(instance string) string {
	return strings.ReplaceAll(c.Path, instancePlaceholder, instance)
}

// Problems tells what is wrong with the configuration.
func (c *TargetConfig) Problems() []strictyaml.Problem {
	var list []strictyaml.Problem
	add := func(field, what, write string) {
		list = append(list, strictyaml.Problem{Field: field, What: what, Write: write})
	}
	expanded := strings.ReplaceAll(c.Path, instancePlaceholder, "i")
	switch {
	case !cleanAbsolute(expanded) || expanded == "/" || strings.ContainsAny(expanded, "{}"):
		add("path", "is not an absolute, clean path", "a path such as /run/keys/{instance}/payments-api; {instance} is the one placeholder")
	case strings.ContainsFunc(expanded, func(r rune) bool { return r < ' ' || r == 0x7f }):
		add("path", "has control characters", "a path without them")
	}
	if mode, err := c.mode(); c.Mode != "" && (err != nil || mode&^maxMode != 0 || mode&0o400 == 0) {
		add("mode", "is not an octal mode that its owner can read, its group can read at most, and nobody else", `"0600", "0400" or "0640"`)
	}
	switch c.Format {
	case "", Plain, JSON:
	case Env:
		if len(c.Variables) == 0 {
			add("variables", "is missing, and env needs names", "such as {value: PAYMENTS_KEY}")
		}
	default:
		add("format", fmt.Sprintf("is %q", c.Format), "plain, json or env")
	}
	for _, f := range []struct {
		field   string
		used    bool
		formats []Format
	}{
		{"field", c.Field != "", []Format{"", Plain}},
		{"fields", len(c.Fields) > 0, []Format{JSON}},
		{"variables", len(c.Variables) > 0, []Format{Env}},
		{"reader", c.Reader != "", []Format{Env}},
	} {
		if f.used && !slices.Contains(f.formats, c.Format) {
			add(f.field, fmt.Sprintf("means nothing with the format %q", c.Format), "field for plain, fields for json, variables and reader for env")
		}
	}
	if !slices.Contains([]Reader{"", Shell, Systemd, Docker}, c.Reader) {
		add("reader", fmt.Sprintf("is %q", c.Reader), "shell, systemd or docker")
	}
	names := map[string]bool{}
	for field, name := range c.Variables {
		if !variableForm.MatchString(name) {
			add("variables."+field, "is no name of a variable", "letters, digits and _, such as PAYMENTS_KEY")
		} else if names[name] {
			add("variables."+field, "is the variable of another field, too", "another name")
		}
		names[name] = true
	}
	return list
}

// mode is the one that is configured; zero for none.
func (c *TargetConfig) mode() (fs.FileMode, error) {
	if c.Mode == "" {
		return 0, nil
	}
	mode, err := strconv.ParseUint(c.Mode, 8, 12)
	return fs.FileMode(mode), err
}

// target writes a consumer's key files.
//
// A file is replaced by a rename in its folder, so a consumer reads the old key or the new one, whole. It
// keeps its rights (owner, group, mode, access control lists, security labels), or is not replaced. A new one gets, when keyturn
// runs as root, owner and group of its folder, else the group where it may. The folder must exist: it is the consumer's, who
// decides about its rights.
//
// The target keeps no copy, and what a crash leaves half written, the next delivery removes.
type target struct {
	config TargetConfig
	mode   fs.FileMode // zero: that of the file
	allow  func(path string) error
}

func openTarget(e providers.Environment, c TargetConfig) (*target, error) {
	for _, p := range c.Problems() {
		return nil, fmt.Errorf("opening file target: %w: %s", providers.ErrInvalid, problemText(p))
	}
	if e.AllowFile == nil {
		return nil, fmt.Errorf("opening file target: %w: nothing says where it may write", providers.ErrDenied)
	}
	mode, err := c.mode()
	return &target{config: c, mode: mode, allow: e.AllowFile}, err
}

// Deliver implements providers.Target.
func (t *target) Deliver(ctx context.Context, d providers.Delivery) error {
	if err := t.deliver(ctx, d); err != nil {
		return fmt.Errorf("delivering key %s to %q: %w", d.Key.KeyID, t.path(d.Instance), err)
	}
	return nil
}

func (t *target) deliver(ctx context.Context, d providers.Delivery) error {
	content, err := t.config.render(d.Bundle)
	defer clear(content)
	if err != nil {
		return err
	}
	return t.locked(ctx, d.Instance, func(dir *os.Root, name string, old os.FileInfo) error {
		if old != nil && (t.mode == 0 || old.Mode().Perm() == t.mode) && same(dir, name, content) {
			return atomicfile.Discard(dir, name)
		}
		mode, err := t.replaceable(dir, name, old)
		if err != nil {
			return err
		}
		if err := t.allow(filepath.Join(dir.Name(), name)); err != nil {
			return err
		}
		return atomicfile.Write(dir, name, content, mode, func(f *os.File) error { return likeBefore(f, dir, name, old) })
	})
}

// locked does something while nobody else changes an instance's folder. It is told of the file that is there, nil for none.
func (t *target) locked(ctx context.Context, instance string, do func(dir *os.Root, name string, old os.FileInfo) error) error {
	dir, name, err := t.open(ctx, instance)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	unlock, err := atomicfile.LockDir(ctx, dir.Name())
	if err != nil {
		return err
	}
	defer unlock()
	old, err := inspect(dir, name)
	if err != nil {
		return err
	}
	return do(dir, name, old)
}

// Fits implements providers.Fitter.
func (t *target) Fits(b secret.Bundle) error {
	content, err := t.config.render(b)
	clear(content)
	if err != nil {
		return err
	}
	return t.config.changed(b)
}

// Holds implements providers.Holder.
func (t *target) Holds(ctx context.Context, d providers.Delivery) (bool, error) {
	held, err := t.holds(ctx, d)
	if err != nil {
		return false, fmt.Errorf("looking whether key %s is in %q: %w", d.Key.KeyID, t.path(d.Instance), err)
	}
	return held, nil
}

func (t *target) holds(ctx context.Context, d providers.Delivery) (bool, error) {
	content, err := t.config.render(d.Bundle)
	defer clear(content)
	if err != nil {
		return false, err
	}
	dir, name, err := t.open(ctx, d.Instance)
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	there, err := inspect(dir, name)
	if err != nil || there == nil {
		return false, err
	}
	have, err := readFile(dir, name)
	defer clear(have)
	return err == nil && bytes.Equal(have, content), err
}

// Reach implements providers.Target.
func (t *target) Reach(ctx context.Context, instance string) error {
	if err := t.reach(ctx, instance); err != nil {
		return fmt.Errorf("reaching %q: %w", t.path(instance), err)
	}
	return nil
}

// reach does what deliver does, short of the rename, with nothing in the file.
func (t *target) reach(ctx context.Context, instance string) error {
	return t.locked(ctx, instance, func(dir *os.Root, name string, old os.FileInfo) error {
		mode, err := t.replaceable(dir, name, old)
		if err != nil {
			return err
		}
		err = atomicfile.Try(dir, name, mode, func(f *os.File) error { return likeBefore(f, dir, name, old) })
		if errors.Is(err, fs.ErrPermission) && !errors.Is(err, providers.ErrDenied) {
			return fmt.Errorf("%w: the worker may not write in the folder: %w", providers.ErrDenied, err)
		}
		return err
	})
}

// ChangesRights implements providers.RightsChanger: all rights but the mode stay what they are, or Reach refuses.
func (t *target) ChangesRights(ctx context.Context, instance string) (string, error) {
	dir, name, err := t.open(ctx, instance)
	if err != nil {
		return "", fmt.Errorf("looking at the rights of %q: %w", t.path(instance), err)
	}
	defer func() { _ = dir.Close() }()
	old, err := inspect(dir, name)
	if err != nil {
		return "", fmt.Errorf("looking at the rights of %q: %w", t.path(instance), err)
	}
	if old == nil || t.mode == 0 || old.Mode().Perm() == t.mode {
		return "", nil
	}
	return fmt.Sprintf("the mode of its file, %04o, becomes %04o, and a rollback does not give it back", old.Mode().Perm(), t.mode), nil
}

func (t *target) path(instance string) string {
	return strings.ReplaceAll(t.config.Path, instancePlaceholder, instance)
}

// open opens the folder of an instance's file, by its path without links, after it was allowed. It stays
// the folder that was allowed, whatever its path leads to later.
func (t *target) open(ctx context.Context, instance string) (dir *os.Root, name string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	if !instanceForm.MatchString(instance) {
		return nil, "", fmt.Errorf("%w: %q cannot be a part of a path", providers.ErrInvalid, instance)
	}
	folder, name := filepath.Split(t.path(instance))
	real, err := filepath.EvalSymlinks(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("%w: the folder does not exist; the consumer's owner makes it, so that its rights are theirs", providers.ErrNotFound)
	}
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(t.allow(filepath.Join(real, name)), trustFolder(real)); err != nil {
		return nil, "", err
	}
	if dir, err = os.OpenRoot(real); err != nil {
		return nil, "", err
	}
	opened, err := dir.Stat(".")
	if err == nil {
		var named fs.FileInfo
		if named, err = os.Lstat(real); err == nil && !os.SameFile(opened, named) {
			err = fmt.Errorf("%w: somebody exchanged the folder just now", providers.ErrDenied)
		}
	}
	if err != nil {
		return nil, "", errors.Join(err, dir.Close())
	}
	return dir, name, nil
}

// inspect returns what is at the final path; nil for nothing. A link or a folder there is refused: a
// rename would take it away from under whoever made it.
func inspect(dir *os.Root, name string) (fs.FileInfo, error) {
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, fmt.Errorf("%w: it is a link, which is not followed; name the file that it leads to", providers.ErrDenied)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: it is no file", providers.ErrDenied)
	}
	return info, nil
}

func same(dir *os.Root, name string, content []byte) bool {
	have, err := readFile(dir, name)
	defer clear(have)
	return err == nil && bytes.Equal(have, content)
}
