// Package file keeps secrets in files: a store, for one host or a shared disk, and a target, for
// consumers that read their key from a file.
//
// Both need a local file system: what they promise rests on rename, fsync and flock.
package file

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Descriptor describes the type file: store, target and freezer.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "file",
		Summary: "keeps secrets in files: store, target, and a lock against deployments",
		Account: func() any { return new(Account) },
		Store: providers.MakeWithAccount(func(e providers.Environment, account *Account, c *StoreConfig) (providers.Store, error) {
			return openStore(e, *account, *c)
		}),
		Target: providers.Make(func(e providers.Environment, c *TargetConfig) (providers.Target, error) {
			return openTarget(e, *c)
		}),
		Freezer: providers.Make(func(_ providers.Environment, c *LockConfig) (providers.Freezer, error) {
			return &freezer{*c}, nil
		}),
	}
}

// Account is one folder of secrets.
type Account struct {
	// Root is the folder, which must exist.
	Root string `json:"root"`
}

// Problems tells what is wrong with the account.
func (a *Account) Problems() []strictyaml.Problem {
	if cleanAbsolute(a.Root) && a.Root != "/" {
		return nil
	}
	return []strictyaml.Problem{{Field: "root", What: "is not an absolute, clean path", Write: "a folder such as /var/lib/keyturn/store"}}
}

// Files is the folder in which a change makes and replaces files: each is of whoever did that.
func (a *Account) Files() []string { return []string{a.Root} }

var _ providers.Prober = (*Account)(nil)

// Probe implements providers.Prober: it looks at the folder and sees whether files can be made and replaced in it.
func (a *Account) Probe(ctx context.Context, _ providers.Environment, _ providers.ProbeInput) (providers.Probed, error) {
	var probed providers.Probed
	if err := trustFolder(a.Root); err != nil {
		return probed, fmt.Errorf("looking at the folder of secrets: %w", err)
	}
	if err := a.try(ctx); err != nil {
		probed.Lacks = append(probed.Lacks, fmt.Sprintf("in folder %q user %d cannot make files (%s): give the worker's user the right", a.Root, os.Geteuid(), outside.Text(err.Error(), outside.MaxText)))
	}
	return probed, nil
}

// try makes a file, and leaves nothing behind.
func (a *Account) try(ctx context.Context) error {
	unlock, err := atomicfile.LockDir(ctx, a.Root)
	if err != nil {
		return err
	}
	defer unlock()
	root, err := os.OpenRoot(a.Root)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return atomicfile.Try(root, "probe", 0o600, nil)
}

// StoreConfig is a file store's part of a credential.
type StoreConfig struct {
	// Path names the secret below the account's root; it may have slashes.
	Path string `json:"path"`
}

// SecretPath implements providers.StoreConfig.
func (c *StoreConfig) SecretPath() string { return c.Path }

var (
	segmentForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	// ownNames are the names in a secret's folder; a secret below another one must not get them.
	ownNames = map[string]bool{stateName: true, versionsName: true, currentName: true, lockName: true}
)

// Problems tells what is wrong with the configuration.
func (c *StoreConfig) Problems() []strictyaml.Problem {
	problem := func(what, write string) []strictyaml.Problem {
		return []strictyaml.Problem{{Field: "path", What: what, Write: write}}
	}
	if len(c.Path) > 1024 {
		return problem("is longer than 1024 bytes", "a shorter path")
	}
	for segment := range strings.SplitSeq(c.Path, "/") {
		switch {
		case !segmentForm.MatchString(segment):
			return problem("is not made of names of letters, digits and . _ -, with slashes between", "a path such as team/payments-api")
		case ownNames[segment]:
			return problem("has the part "+segment+", which the store uses itself", "another name")
		}
	}
	return nil
}
