package activities_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/memory"
)

func TestDiagnosisOfAWorker(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.do.Worker, c.do.Build = "me", "v1"
	c.do.Now = func() time.Time { return time.Now().Add(time.Hour) }
	var d policy.Diagnosis
	c.execute("Diagnose", nil, &d)
	assert.Equal(t, "me", d.Worker)
	assert.Equal(t, "v1", d.Build)
	assert.Len(t, d.Digest, 64, "the SHA-256 of its configuration")
	assert.InDelta(t, time.Hour, d.Ahead, float64(time.Minute), "its clock is an hour ahead")
	assert.True(t, d.AllowUnsigned)
	require.Len(t, d.Accounts, 2)
	assert.Equal(t, "edge", d.Accounts[0].Name)
	assert.Empty(t, d.Accounts[0].Problem)

	c.world.SetLacks("the right to mint")
	c.world.Fail(memory.OpProbe, errors.New("connection refused"), 1)
	c.execute("Diagnose", nil, &d)
	failed, lacking := d.Accounts[0], d.Accounts[1]
	if failed.Problem == "" {
		failed, lacking = lacking, failed // they are tried at once
	}
	assert.Contains(t, failed.Problem, "connection refused")
	assert.Equal(t, []string{"the right to mint"}, lacking.Lacks)
}

func TestSignersOfAWorker(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	folder := t.TempDir()
	signers, nobody := filepath.Join(folder, "signers"), filepath.Join(folder, "nobody")
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBR0cOXLHDtcJWuTM7uWbE3KJTBCuqc0pYnxeiMDBRkf"
	require.NoError(t, os.WriteFile(signers, []byte("ann valid-before=\"20260305Z\" "+key+"\nbob "+key+"\n"), 0o600))
	require.NoError(t, os.WriteFile(nobody, nil, 0o600))
	was := c.do.Config()
	config := *was
	config.Trust = workerconfig.Trust{
		Inventory: []workerconfig.InventoryTrust{{Environments: []string{"production"}, AllowedSigners: signers}},
		Approvers: map[string]string{"owners": nobody, "security": filepath.Join(folder, "none")},
	}
	c.do.Config = func() *workerconfig.Config { return &config }
	var d policy.Diagnosis
	c.execute("Diagnose", nil, &d)
	require.Len(t, d.Trust, 2)
	assert.Contains(t, d.Trust[0], "names nobody")
	assert.Contains(t, d.Trust[1], "no such file")

	var found []policy.Finding
	c.execute("SweepSigners", nil, &found)
	require.Len(t, found, 1, "the worker's clock says 1 March")
	assert.Contains(t, found[0].Message, "of ann, who signs specs of production, is valid until 2026-03-05")
}

func TestListingIsByName(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.do.Applied = several{}
	var page []activities.Entry
	c.execute("ListApplied", activities.ListAppliedInput{Limit: 2}, &page)
	assert.Equal(t, []string{"a/x", "b/x"}, names(page))
	c.execute("ListApplied", activities.ListAppliedInput{After: page[1].Named, Limit: 2}, &page)
	assert.Equal(t, []string{"b/y", "c/x"}, names(page))
	c.execute("ListApplied", activities.ListAppliedInput{After: page[1].Named, Limit: 2}, &page)
	assert.Empty(t, page)
}

// Two inventories that were applied at the same moment may both have a credential, or a principal.
func TestSweepFindsWhatTwoInventoriesHave(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.do.Applied = several{}
	var found activities.Astray
	c.execute("SweepAstray", nil, &found)
	require.Len(t, found.Findings, 1)
	assert.Equal(t, policy.FoundClaimedTwice, found.Findings[0].Kind)
	assert.Equal(t, "b", found.Findings[0].Credential)
	assert.Contains(t, found.Findings[0].Message, "inventories x and y have it")
}

func names(entries []activities.Entry) []string {
	var list []string
	for _, e := range entries {
		list = append(list, e.Credential+"/"+e.Inventory)
	}
	return list
}

// several are credentials in no order.
type several struct{ *crashCase }

func (several) Entries(context.Context) ([]activities.Entry, error) {
	var list []activities.Entry
	for _, n := range []activities.Named{{Credential: "c", Inventory: "x"}, {Credential: "b", Inventory: "y"}, {Credential: "a", Inventory: "x"}, {Credential: "b", Inventory: "x"}} {
		list = append(list, activities.Entry{Named: n})
	}
	return list, nil
}
