package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"text/template"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"

	"github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
	issuer "github.com/keyturn/keyturn/providers/gateway"
)

//go:embed templates
var templates embed.FS

// FirstKeyID is the gateway's name of the key that was there before keyturn.
const FirstKeyID = "made-by-hand-in-2024"

// Windows are the times of the demonstration's rotation.
type Windows struct {
	Overlap, Quiet, WaveSoak, DisableSoak inventory.Duration
}

// Setting is what the files of the demonstration are made of.
type Setting struct {
	Folder Folder
	// Gateway is the URL that consumers call, Consumers the one below which each instance answers.
	Gateway, Consumers string
	Windows            Windows
	// AWS: the key is that of an IAM user, in Secrets Manager.
	AWS bool
	// Signed: specs, approvals and declarations of incidents must be signed with the folder's key.
	Signed bool
}

func (s Setting) place() Place {
	f := s.Folder
	return Place{
		Folder: f, Credential: Credential, Inventory: f.Inventory(), Worker: f.Worker(), Audit: f.Audit(),
		Gateway: s.Gateway, Consumers: s.Consumers, Snapshot: s.Consumers + "/snapshot",
	}
}

// Credential, Instances and KeysOf are for the templates.
func (s Setting) Credential() string            { return Credential }
func (s Setting) Instances() []string           { return Instances }
func (s Setting) KeysOf(instance string) string { return s.Folder.KeysOf(instance) }

// Seed makes the world as it is before keyturn's first rotation: the two YAML files, one key that the
// gateway accepts and that is CURRENT in the store, and each consumer's file with it. What a folder has
// already stays, but for the YAML files: they are written again.
func Seed(ctx context.Context, s Setting) error {
	if s.Signed {
		if err := s.Folder.makeSigner(); err != nil {
			return fmt.Errorf("making a key to sign with: %w", err)
		}
	}
	if err := s.writeFiles(); err != nil {
		return err
	}
	w, err := open(s.Folder)
	if err != nil {
		return fmt.Errorf("seeding the sandbox: %w", err)
	}
	if err := w.seed(ctx, s.Folder); err != nil {
		return fmt.Errorf("seeding the sandbox: %w", err)
	}
	return nil
}

// writeFiles writes the two YAML files of keyturn.
func (s Setting) writeFiles() error {
	suffix := ".yaml"
	if s.AWS {
		suffix = "-aws.yaml"
	}
	for name, path := range map[string]string{"inventory": s.Folder.Inventory(), "keyturn-worker": s.Folder.Worker()} {
		text, err := s.write(name + suffix)
		if err == nil {
			err = renameio.WriteFile(path, text, 0o600)
		}
		if err != nil {
			return fmt.Errorf("writing %s.yaml: %w", name, err)
		}
	}
	return nil
}

func (s Setting) write(name string) ([]byte, error) {
	functions := template.FuncMap{
		// A JSON string is a YAML string, whatever a path has in it.
		"quote": func(text string) (string, error) { quoted, err := json.Marshal(text); return string(quoted), err },
		"host":  func(address string) (string, error) { u, err := url.Parse(address); return u.Host, err },
	}
	t, err := template.New(name).Funcs(functions).ParseFS(templates, "templates/"+name)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = t.Execute(&text, s)
	return text.Bytes(), err
}

// world is the credential's providers, made from the two files as the worker makes them.
type world struct {
	credential inventory.Credential
	issuer     providers.Issuer
	store      providers.Store
	targets    []target
}

type target struct {
	providers.Target
	consumer inventory.Consumer
}

// open reads the two files, strictly, and opens what they name.
func open(f Folder) (*world, error) {
	config, err := workerconfig.LoadFile(f.Worker(), all.Descriptors())
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(f.Inventory())
	if err != nil {
		return nil, err
	}
	inv, err := inventory.Load(f.Inventory(), text, all.Catalog(all.Descriptors()...))
	if err != nil {
		return nil, err
	}
	w := &world{credential: inv.Credentials[0]}
	environment := config.Environment(w.credential.Environment)
	if w.issuer, err = opened(config, environment, w.credential.Issuer, func(d providers.Descriptor) *providers.Maker[providers.Issuer] { return d.Issuer }); err != nil {
		return nil, err
	}
	if w.store, err = opened(config, environment, w.credential.Store, func(d providers.Descriptor) *providers.Maker[providers.Store] { return d.Store }); err != nil {
		return nil, err
	}
	for _, c := range w.credential.Consumers {
		t, err := opened(config, environment, c.Target, func(d providers.Descriptor) *providers.Maker[providers.Target] { return d.Target })
		if err != nil {
			return nil, err
		}
		w.targets = append(w.targets, target{Target: t, consumer: c})
	}
	return w, nil
}

// opened opens what a part of the credential names.
func opened[T any](config *workerconfig.Config, e providers.Environment, p inventory.Provider, maker func(providers.Descriptor) *providers.Maker[T]) (made T, err error) {
	d, _ := all.Find(all.Descriptors(), p.Type)
	fields := maker(d).Config()
	if err := p.Decode(fields); err != nil {
		return made, err
	}
	return maker(d).Open(e, config.Accounts[p.Account].Settings, fields)
}

// seed makes what is missing. It may be killed anywhere and called again: the store comes first, so that
// the gateway never knows a key that is nowhere else.
func (w *world) seed(ctx context.Context, f Folder) error {
	current, err := w.store.ReadLabel(ctx, key.Current)
	if errors.Is(err, providers.ErrNotFound) {
		current, err = w.firstKey(ctx)
	}
	if err != nil {
		return err
	}
	defer current.Close()
	if err := w.register(ctx, f, current); err != nil {
		return err
	}
	for _, t := range w.targets {
		for _, instance := range t.consumer.InstanceNames() {
			if _, err := os.Stat(f.KeysOf(nameOf(t.consumer, instance))); !errors.Is(err, fs.ErrNotExist) {
				continue // it has a key, which may be one that a rotation brought
			}
			err := t.Deliver(ctx, providers.Delivery{Instance: instance, Key: key.Ref{Fingerprint: current.Fingerprint()}, Bundle: current})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// firstKey makes a key, of some form that keyturn has nothing to do with, and stores it as CURRENT.
func (w *world) firstKey(ctx context.Context) (secret.Bundle, error) {
	b := secret.Single(secret.New([]byte(rand.Text() + rand.Text())))
	version, err := w.store.Stage(ctx, uuid.NewString(), b)
	if err == nil {
		err = w.store.Promote(ctx, "", version)
	}
	return b, err
}

// register makes the gateway accept the key, unless it knows it.
func (w *world) register(ctx context.Context, f Folder, b secret.Bundle) error {
	if err := gateway.Create(ctx, f.GatewayKeys()); err != nil {
		return err
	}
	if _, err := w.issuer.Identify(ctx, b); !errors.Is(err, providers.ErrNotFound) {
		return err
	}
	value, _ := b.Field(secret.ValueField)
	return issuer.AddKey(ctx, f.GatewayKeys(), issuer.ExistingKey{
		Principal: Credential, KeyID: FirstKeyID, Scopes: w.credential.Scopes,
	}, value)
}

// nameOf is how an instance calls itself.
func nameOf(c inventory.Consumer, instance string) string {
	if instance == c.Name {
		return instance
	}
	return c.Name + "-" + instance
}
