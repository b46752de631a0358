package demo

import (
	"fmt"
	"os"
	"path/filepath"
)

// Credential is the one that the sandbox rotates.
const Credential = "payments-api"

// Instances are the consumers' instances, as they call themselves: the canary, and the two of the
// consumer checkout.
var Instances = []string{"checkout-canary", "checkout-a", "checkout-b"}

// Folder is where the sandbox keeps its state: an absolute path without links in it.
type Folder string

// MakeFolder makes the folder, when it is not there, for its owner alone. An empty path is a new folder
// among the temporary ones.
func MakeFolder(path string) (Folder, error) {
	var err error
	if path == "" {
		path, err = os.MkdirTemp("", "keyturn-sandbox-") // 0700
	} else {
		err = os.MkdirAll(path, 0o700)
	}
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("making the sandbox's folder: %w", err)
	}
	for _, sub := range []string{Folder(path).Store(), Folder(path).Keys(), filepath.Dir(Folder(path).GatewayKeys())} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return "", fmt.Errorf("making the sandbox's folder: %w", err)
		}
	}
	for _, instance := range Instances {
		if err := os.MkdirAll(filepath.Dir(Folder(path).KeysOf(instance)), 0o700); err != nil {
			return "", fmt.Errorf("making the sandbox's folder: %w", err)
		}
	}
	return Folder(path), nil
}

func (f Folder) in(parts ...string) string {
	return filepath.Join(append([]string{string(f)}, parts...)...)
}

// Inventory and Worker are the two YAML files of keyturn.
func (f Folder) Inventory() string { return f.in("inventory.yaml") }

// Worker is the worker configuration.
func (f Folder) Worker() string { return f.in("keyturn-worker.yaml") }

// AWSCredentials is the shared credentials file of a worker on moto.
func (f Folder) AWSCredentials() string { return f.in("aws-credentials") }

// GatewayKeys is the gateway's key file: who may call it, as salted hashes.
func (f Folder) GatewayKeys() string { return f.in("gateway", "keys.json") }

// Store is the folder of the secret store.
func (f Folder) Store() string { return f.in("store") }

// Keys is the folder of the consumers' own key files, KeysOf the file of one.
func (f Folder) Keys() string { return f.in("keys") }

// KeysOf is the key file of an instance.
func (f Folder) KeysOf(instance string) string { return f.in("keys", instance, Credential) }

// Audit is the audit record.
func (f Folder) Audit() string { return f.in("audit.jsonl") }

// Database is Temporal's.
func (f Folder) Database() string { return f.in("temporal.db") }

// ServerLog has Temporal's warnings, WorkerLog what the worker says.
func (f Folder) ServerLog() string { return f.in("temporal.log") }

// WorkerLog is what the worker says.
func (f Folder) WorkerLog() string { return f.in("worker.log") }
