// Command run sets up a gateway and a consumer of it whose key keyturn has never seen, imports that key, and says how to rotate
// it for the first time. All files are below one folder; it needs no root. Run it in the folder of the source:
//
//	go run ./examples/run
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/crypto/ssh"
)

//go:embed inventory.yaml keyturn-worker.yaml
var files embed.FS

// example is where everything is.
type example struct {
	Folder, Gateway, Consumer string
}

// In is a path below the folder, as YAML has it.
func (e example) In(path string) (string, error) {
	quoted, err := json.Marshal(e.path(path))
	return string(quoted), err
}

func (e example) path(path string) string { return filepath.Join(e.Folder, filepath.FromSlash(path)) }

func main() {
	var e example
	flag.StringVar(&e.Folder, "folder", "", "where all files are put, to go on another time (default a new temporary one)")
	flag.StringVar(&e.Gateway, "gateway", "127.0.0.1:8480", "address of the gateway")
	flag.StringVar(&e.Consumer, "consumer", "127.0.0.1:8481", "address of the consumer")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := e.run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func (e example) run(ctx context.Context) error {
	if err := e.makeFolder(); err != nil {
		return err
	}
	if err := e.build(ctx); err != nil {
		return err
	}
	consumer, err := e.start(ctx, "consumer", "-listen", e.Consumer, "-key-file", e.path("checkout/payments-api"), "-gateway", "http://"+e.Gateway+"/charges")
	if err != nil {
		return err
	}
	if err := e.importKey(ctx, consumer); err != nil {
		return err
	}
	gateway, err := e.start(ctx, "gateway", "-listen", e.Gateway, "-keys", e.path("gateway/keys.json"))
	if err != nil {
		return err
	}
	if err := answers(ctx, "http://"+e.Gateway+"/healthz", gateway); err != nil {
		return err
	}
	fmt.Printf(`# The gateway and its consumer run until Ctrl-C. All files are below %[1]s.
# In another terminal. If you have no Temporal, begin in the folder of the source with: go run ./sandbox server &
cd %[1]s
bin/keyturn setup --wait 5m
bin/keyturn-worker --config keyturn-worker.yaml > worker.log 2>&1 &
bin/keyturn plan payments-api -f inventory.yaml --sign signing-key
bin/keyturn rotate payments-api -f inventory.yaml --sign signing-key --reason "my first one"
bin/keyturn status payments-api
bin/keyturn approve payments-api --gate revoke --sign signing-key    # once status says that it waits for that, in half a minute
bin/keyturn status payments-api --watch
`, e.Folder)
	select {
	case <-ctx.Done():
		return errors.Join(stopped(<-gateway), stopped(<-consumer))
	case err = <-gateway:
	case err = <-consumer:
	}
	return err
}

// makeFolder makes what is missing: folders, a key to sign with, the consumer's key, and the two YAML files, which are written anew.
func (e *example) makeFolder() (err error) {
	if e.Folder == "" {
		e.Folder, err = os.MkdirTemp("", "keyturn-example-")
	} else {
		e.Folder, err = filepath.Abs(e.Folder)
	}
	if err != nil {
		return err
	}
	for _, folder := range []string{"bin", "gateway", "store", "checkout"} {
		if err := os.MkdirAll(e.path(folder), 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"inventory.yaml", "keyturn-worker.yaml"} {
		t, err := template.ParseFS(files, name)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := t.Execute(&text, e); err != nil {
			return err
		}
		if err := os.WriteFile(e.path(name), text.Bytes(), 0o600); err != nil {
			return err
		}
	}
	if _, err := os.Stat(e.path("signers")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The key that the consumer had before keyturn.
	if err := os.WriteFile(e.path("checkout/payments-api"), []byte("sk-"+rand.Text()+rand.Text()), 0o600); err != nil {
		return err
	}
	return e.makeSigner()
}

// makeSigner makes an SSH key, and the file of those who are allowed to sign.
func (e example) makeSigner() error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "keyturn example")
	if err != nil {
		return err
	}
	if err := os.WriteFile(e.path("signing-key"), pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	return os.WriteFile(e.path("signers"), append([]byte("you@example.com "), ssh.MarshalAuthorizedKey(key)...), 0o600)
}

// build builds the programs.
func (e example) build(ctx context.Context) error {
	for name, source := range map[string]string{"keyturn": "starter", "keyturn-worker": "worker", "gateway": "examples/gateway", "consumer": "examples/consumer"} {
		if err := command(ctx, "go", "build", "-o", e.path("bin/"+name), "./"+source).Run(); err != nil {
			return fmt.Errorf("building %s, in the folder of the source: %w", name, err)
		}
	}
	return nil
}

// importKey brings in the consumer's key, once the consumer states it. Again it finds that done.
func (e example) importKey(ctx context.Context, consumer <-chan error) error {
	if err := answers(ctx, "http://"+e.Consumer+"/keyturn", consumer); err != nil {
		return err
	}
	if _, err := os.Stat(e.path("store/payments-api/current")); err == nil {
		return nil // it may be another one by now
	}
	key, err := os.Open(e.path("checkout/payments-api"))
	if err != nil {
		return err
	}
	defer func() { _ = key.Close() }()
	cmd := command(ctx, e.path("bin/keyturn-worker"), "import", "payments-api", "-f", e.path("inventory.yaml"), "--config", e.path("keyturn-worker.yaml"),
		"--sign", e.path("signing-key"), "--key", "from-before-keyturn", "--fd", "3")
	cmd.ExtraFiles = []*os.File{key}
	return cmd.Run()
}

// stopped is nil for a program that ended since it was told to.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// start starts a program of the example, and tells when it has ended.
func (e example) start(ctx context.Context, name string, args ...string) (<-chan error, error) {
	cmd := command(ctx, e.path("bin/"+name), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- fmt.Errorf("the %s has ended: %w", name, errors.Join(cmd.Wait(), ctx.Err())) }()
	return ended, nil
}

func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd
}

// answers waits until a program answers well, or has ended.
func answers(ctx context.Context, url string, program <-chan error) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil { //nolint:gosec // the address is the person's own choice
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-program:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
