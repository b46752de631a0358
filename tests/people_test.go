package tests

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/providers/all"
)

// person is somebody with an SSH key.
type person struct {
	name string
	// file is the private key, for --sign.
	file string
	key  ssh.Signer
}

func newPerson(t testing.TB, folder, name string) person {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, name)
	require.NoError(t, err)
	p := person{name: name, file: filepath.Join(folder, name)}
	require.NoError(t, os.WriteFile(p.file, pem.EncodeToMemory(block), 0o600))
	p.key, err = ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	return p
}

// public is the line of a .pub file.
func (p person) public() []byte { return ssh.MarshalAuthorizedKey(p.key.PublicKey()) }

// trust writes an allowed signers file.
func trust(t testing.TB, file string, people ...person) {
	t.Helper()
	var lines strings.Builder
	for _, p := range people {
		lines.WriteString(p.name + " " + string(p.public()))
	}
	require.NoError(t, os.WriteFile(file, []byte(lines.String()), 0o600))
}

// trustingStage is a stage whose worker trusts ann to sign specs and olga to approve; mallory has a key
// that nobody trusts, and may write to the namespace.
type trustingStage struct {
	*stage
	ann, olga, mallory person
	signers, owners    string
	// lock is the file that freezes deployments.
	lock string
	// ran is a file that exists once the worker's program was run.
	ran string
}

func newTrustingStage(t *testing.T, windows ...string) *trustingStage {
	t.Helper()
	return trusting(t, prepare(t, windows...))
}

// trusting has a stage's worker trust people, and starts it.
func trusting(t *testing.T, prepared *stage) *trustingStage {
	t.Helper()
	s := &trustingStage{stage: prepared}
	s.ann, s.olga, s.mallory = newPerson(t, s.folder, "ann"), newPerson(t, s.folder, "olga"), newPerson(t, s.folder, "mallory")
	s.signers, s.owners, s.ran = filepath.Join(s.folder, "signers"), filepath.Join(s.folder, "owners"), filepath.Join(s.folder, "ran")
	trust(t, s.signers, s.ann)
	trust(t, s.owners, s.olga)
	program := filepath.Join(s.folder, "reload")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\ntouch '"+s.ran+"'\n"), 0o700))

	s.rewrite(s.place.Inventory, "revoke: {count: 1, trust: any}", "revoke: {count: 1, trust: signed, from: [owners]}")
	s.rewrite(s.place.Worker, "audit:", "trust:\n  inventory: [{environments: [sandbox], allowedSigners: '"+s.signers+"'}]\n  approvers: {owners: '"+s.owners+
		"'}\nprograms: {reload: ['"+program+"']}\naudit:")
	s.startWorker()
	return s
}

// spec is the credential's, as the inventory has it, changed and signed.
func (s *trustingStage) spec(by person, change func(*inventory.Spec)) inventory.SignedSpec {
	s.t.Helper()
	text, err := os.ReadFile(s.place.Inventory)
	require.NoError(s.t, err)
	inv, err := inventory.Load(s.place.Inventory, text, all.Catalog(all.Descriptors()...))
	require.NoError(s.t, err)
	spec := inventory.Spec{Namespace: s.namespace, Inventory: inv.Name, Generation: time.Now().UnixMilli(), Credential: inv.Credentials[0]}
	change(&spec)
	packed, err := inventory.NewSpec(spec)
	require.NoError(s.t, err)
	signed, err := packed.Sign(by.key)
	require.NoError(s.t, err)
	return signed
}

func asDeclared(*inventory.Spec) {}
