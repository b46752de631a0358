package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"os/user"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/connection"
	"github.com/keyturn/keyturn/internal/host"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type importOptions struct {
	config, file, sign, keyID, output string
	fd                                int
	unattested, allowUnsigned         bool
	temporal                          connection.Flags
}

// newImport imports a key. It runs here, and not as a workflow, since the key must not pass through Temporal.
func newImport() *cobra.Command {
	o := importOptions{fd: noFD}
	cmd := &cobra.Command{
		Use:   "import CREDENTIAL -f FILE --config FILE",
		Short: "Brings a key that is in use into issuer and store",
		Long: `Brings the key that consumers use already into the issuer, where that takes one, and into the store as CURRENT, so
that even the first rotation can be rolled back. It sees that the key works and that each consumer attests it.

The key comes from a file descriptor, or is asked for on the terminal without being shown: one text, or a JSON object
where the issuer's keys have several fields. A final line break is none of it. It runs on the worker's host with the
worker's configuration, and asks Temporal nothing: the namespace alone matters. Nothing else may act on the credential
meanwhile. After it died, run it again with the same key.

    keyturn-worker import payments-api -f inventory.yaml --config keyturn-worker.yaml --fd 3 3< /run/keys/payments-api

Exit codes: 0 done, 1 failed, 2 the command line, the files or the key are wrong, 3 refused, 4 the file has no such
credential.`,
		Args: oneCredential,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.fd == 1 || o.fd == 2 || o.fd < noFD {
				return usage(fmt.Errorf("--fd is %d: write 0, or a number from 3 on, as in --fd 3 3< FILE", o.fd))
			}
			if o.output != "table" && o.output != "json" {
				return usage(fmt.Errorf("--output is %q: write table or json", o.output))
			}
			imported, err := importKey(cmd.Context(), o, args[0], cmd.ErrOrStderr())
			if cmd.Context().Err() != nil && err != nil { // else an interrupted worker ends well
				return &codedError{errors.New("interrupted: run it again with the same key"), exitFailed}
			}
			if err != nil {
				return err
			}
			return showImported(cmd.OutOrStdout(), o.output, imported)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "the inventory file that has the credential")
	f.StringVar(&o.config, "config", "keyturn-worker.yaml", "the worker configuration")
	f.IntVar(&o.fd, "fd", noFD, "read the key from this file descriptor (default a prompt on the terminal)")
	f.StringVar(&o.keyID, "key", "", "what the key is called at an issuer that does not know it (default the one under adopt)")
	f.StringVar(&o.sign, "sign", "", `sign the spec with this SSH key, as rotate does: a private key file, a .pub file whose key the agent has, or "agent"`)
	f.BoolVar(&o.unattested, "unattested", false, "go on though some consumers do not attest the key; they are on record")
	f.BoolVar(&o.allowUnsigned, "allow-unsigned", false, "accept an unsigned spec of an environment without trusted signers, as the worker does that has this flag")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	o.temporal.Add(cmd)
	return cmd
}

func oneCredential(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name one credential")
	}
	return nil
}

// noFD: the key is asked for on the terminal.
const noFD = -1

func importKey(ctx context.Context, o importOptions, credential string, errOut io.Writer) (activities.Imported, error) {
	var none activities.Imported
	config, err := workerconfig.LoadFile(o.config, all.Descriptors())
	if err != nil {
		return none, usage(err)
	}
	if err := asTheirOwner(config, os.Geteuid()); err != nil {
		return none, usage(err)
	}
	temporal, err := o.temporal.Options()
	if err != nil {
		return none, usage(err)
	}
	spec, err := specOf(o.file, credential)
	if err != nil {
		return none, err
	}
	spec.Namespace = temporal.Namespace
	packed, err := packSpec(spec, o.sign, errOut)
	if err != nil {
		return none, err
	}
	record, err := host.Record(config)
	if err != nil {
		return none, err
	}
	do := &activities.Activities{
		Config: func() *workerconfig.Config { return config }, Descriptors: all.Descriptors(), Catalog: all.Catalog(all.Descriptors()...),
		Audit: record, Namespace: temporal.Namespace, AllowUnsigned: o.allowUnsigned, Now: time.Now, PollEvery: time.Second,
	}
	return activities.Import(ctx, do, activities.ImportInput{
		Spec: packed, Run: strings.ToLower(rand.Text()), KeyID: o.keyID, Unattested: o.unattested, By: whoami(),
		Read: func(fields []string) (secret.Bundle, error) { return readKey(o.fd, fields, errOut) },
	})
}

// asTheirOwner refuses to let root replace files of the user as whom worker and gateway run: they could not read them any more.
func asTheirOwner(config *workerconfig.Config, me int) error {
	if me != 0 {
		return nil // who may not write them will be told
	}
	files := []string{config.Audit.File}
	for _, name := range slices.Sorted(maps.Keys(config.Accounts)) {
		if has, is := config.Accounts[name].Settings.(interface{ Files() []string }); is {
			files = append(files, has.Files()...)
		}
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue // it is made, or is none
		}
		if owner, is := info.Sys().(*syscall.Stat_t); is && owner.Uid != 0 {
			return fmt.Errorf("%s belongs to user %d, and would be root's: run the import as that user, whom the worker runs as (sudo -u '#%d' …)", file, owner.Uid, owner.Uid)
		}
	}
	return nil
}

// specOf finds the credential in an inventory file.
func specOf(file, name string) (inventory.Spec, error) {
	if file == "" {
		return inventory.Spec{}, usage(fmt.Errorf("say which inventory has %s, with -f FILE", name))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return inventory.Spec{}, usage(fmt.Errorf("reading inventory: %w", err))
	}
	inv, err := inventory.Load(file, data, all.Catalog(all.Descriptors()...))
	if err != nil {
		return inventory.Spec{}, usage(err)
	}
	spec, err := inv.Spec(name, time.Now())
	if err != nil {
		return spec, &codedError{fmt.Errorf("%s has %w", file, err), exitNotFound}
	}
	return spec, nil
}

// packSpec signs the spec where a key is named. It goes nowhere, so that nothing but this import can be begun by it.
func packSpec(spec inventory.Spec, with string, errOut io.Writer) (inventory.SignedSpec, error) {
	packed, err := inventory.NewSpec(spec)
	if err != nil || with == "" {
		return packed, err
	}
	signer, done, err := signed.OpenKey(with, func(file string) ([]byte, error) {
		return prompt("Passphrase of "+file, "use the SSH agent (ssh-add), and name the .pub file", errOut)
	})
	if err != nil {
		return packed, usage(err)
	}
	defer done()
	return packed.Sign(signer)
}

// maxKey bounds what is read of a key.
const maxKey = 64 << 10

// readKey reads the key of these fields. No error tells anything of it.
func readKey(fd int, fields []string, errOut io.Writer) (secret.Bundle, error) {
	if fd == noFD {
		return askKey(fields, errOut)
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("file descriptor %d", fd))
	if file == nil {
		return secret.Bundle{}, usage(fmt.Errorf("file descriptor %d is none", fd))
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxKey+1))
	defer clear(data)
	switch {
	case err != nil:
		return secret.Bundle{}, usage(fmt.Errorf("file descriptor %d cannot be read: open it, as in --fd %d %d< FILE", fd, fd, fd))
	case len(data) > maxKey:
		return secret.Bundle{}, usage(fmt.Errorf("it is longer than %d bytes", maxKey))
	}
	return parseKey(data, fields)
}

// askKey asks for each field on the terminal.
func askKey(fields []string, errOut io.Writer) (secret.Bundle, error) {
	values := map[string]secret.Value{}
	for _, name := range fields {
		text, err := prompt("Key ("+name+")", "name a file descriptor that has the key, as in --fd 3 3< FILE", errOut)
		if err != nil {
			return secret.Bundle{}, usage(err)
		}
		if len(text) == 0 {
			return secret.Bundle{}, usage(fmt.Errorf("the field %s is empty", name))
		}
		values[name] = secret.New(text)
		clear(text)
	}
	return secret.NewBundle(values), nil
}

// prompt asks for a secret without showing it. otherwise says what to do where there is no terminal.
func prompt(what, otherwise string, errOut io.Writer) ([]byte, error) {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return nil, errors.New("there is no terminal to ask for it: " + otherwise)
	}
	fmt.Fprintf(errOut, "%s: ", what)
	defer fmt.Fprintln(errOut)
	before, err := term.GetState(in)
	if err != nil {
		return nil, err
	}
	// Who interrupts is not kept until a line comes; the echo must come back.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(in)
		read <- line{text, err}
	}()
	select {
	case got := <-read:
		return got.text, got.err
	case <-interrupted:
		return nil, errors.Join(errors.New("interrupted"), term.Restore(in, before))
	}
}

// parseKey makes the bundle of what was read: the text itself, or a JSON object where a key has several fields.
func parseKey(data []byte, fields []string) (secret.Bundle, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if len(fields) == 1 {
		if text == "" {
			return secret.Bundle{}, usage(errors.New("it is empty"))
		}
		return secret.NewBundle(map[string]secret.Value{fields[0]: secret.New([]byte(text))}), nil
	}
	want := "a JSON object of texts with the fields " + strings.Join(fields, " and ") + ", and no others"
	b, err := secret.Decode([]byte(text))
	if err != nil {
		return secret.Bundle{}, usage(errors.New("it is not " + want))
	}
	own := b.Only(fields...)
	complete := len(b.Names()) == len(fields) && len(own.Names()) == len(fields)
	for _, name := range own.Names() {
		v, _ := own.Field(name)
		complete = complete && v.Len() > 0
	}
	if !complete {
		b.Close()
		return secret.Bundle{}, usage(errors.New("it is not " + want))
	}
	return b, nil
}

// whoami is who imports, for the record.
func whoami() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

func showImported(out io.Writer, format string, i activities.Imported) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(i)
	}
	for _, file := range i.Made {
		fmt.Fprintf(out, "made %s\n", outside.Text(file, outside.MaxText))
	}
	fmt.Fprintf(out, "key %s of %s is CURRENT, as version %s.\n", i.Key.KeyID, i.Credential, i.Key.StoreVersion)
	if i.Untested {
		fmt.Fprintln(out, "Nothing can test it: the issuer lists it as active.")
	}
	for _, who := range i.Unattested {
		fmt.Fprintf(out, "not attested: %s\n", outside.Text(who, outside.MaxText))
	}
	fmt.Fprintf(out, "see what a rotation would do with: keyturn plan %s -f FILE\n", i.Credential)
	return nil
}
