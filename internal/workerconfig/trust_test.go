package workerconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
)

const anns = "ann ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBS0eKFkVS3Q9vv8TSXCaQ4KnLuMxBPbwqEcXUJ3Ywup\n"

// withSigners writes the base configuration with two signers files, and loads it.
func withSigners(t *testing.T, signers, approvers string) (*workerconfig.Config, string, error) {
	t.Helper()
	folder := t.TempDir()
	in, by := filepath.Join(folder, "in"), filepath.Join(folder, "by")
	require.NoError(t, os.WriteFile(in, []byte(signers), 0o600))
	require.NoError(t, os.WriteFile(by, []byte(approvers), 0o600))
	text := strings.NewReplacer("/etc/keyturn/inventory_signers", in, "/etc/keyturn/payments_signers", by).Replace(base)
	path := filepath.Join(folder, "keyturn-worker.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	c, err := workerconfig.LoadFile(path, all.Descriptors())
	return c, by, err
}

func TestBadFilesOfSignersAreFoundAtStart(t *testing.T) {
	t.Parallel()
	_, _, err := withSigners(t, "ann nonsense\n", "# nobody\n")
	require.Error(t, err)
	assert.ErrorContains(t, err, ":6:")
	assert.ErrorContains(t, err, "trust.inventory[0].allowedSigners cannot be used")
	assert.ErrorContains(t, err, "line 1: the key of ann")
	assert.ErrorContains(t, err, "trust.approvers.payments-owners")
	assert.ErrorContains(t, err, "names nobody")
}

// Somebody else has to review what was approved by break-glass.
func TestWhoBreaksGlassIsNotTheOnlyOne(t *testing.T) {
	t.Parallel()
	load := func(approvers string) error {
		_, path, err := withSigners(t, anns, approvers)
		require.NoError(t, err)
		file := filepath.Join(filepath.Dir(path), "keyturn-worker.yaml")
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		broken := strings.Replace(string(text), "  approvers:", "  breakGlass: {production: [payments-owners]}\n  approvers:", 1)
		require.NotEqual(t, string(text), broken)
		require.NoError(t, os.WriteFile(file, []byte(broken), 0o600))
		_, err = workerconfig.LoadFile(file, all.Descriptors())
		return err
	}
	require.NoError(t, load(anns+bens))
	assert.ErrorContains(t, load(anns), "trust.breakGlass lets ann pass gates alone, whom nobody else under trust.approvers could review")
}

func TestWhoMaySign(t *testing.T) {
	t.Parallel()
	c, by, err := withSigners(t, anns, anns)
	require.NoError(t, err)
	assert.True(t, c.DemandsSignature("production"))
	assert.False(t, c.DemandsSignature("staging"))
	in, err := c.InventorySigners("production")
	require.NoError(t, err)
	assert.Equal(t, []string{"ann"}, in.Names())
	in, err = c.InventorySigners("staging")
	require.NoError(t, err)
	assert.Empty(t, in)
	_, err = c.Approvers("strangers")
	require.ErrorIs(t, err, providers.ErrDenied)

	require.NoError(t, os.WriteFile(by, []byte(strings.Replace(anns, "ann", "bob", 1)), 0o600))
	group, err := c.Approvers("payments-owners")
	require.NoError(t, err)
	assert.Equal(t, []string{"bob"}, group.Names(), "who leaves the file is trusted no more, at once")
}

func TestGatesThatNobodyCouldPass(t *testing.T) {
	t.Parallel()
	c, _, err := withSigners(t, anns, anns)
	require.NoError(t, err)
	for name, g := range map[string]struct {
		gate inventory.Approval
		says string
	}{
		"one of the group is enough":       {inventory.Approval{Count: 1, From: []string{"payments-owners"}}, ""},
		"nobody is asked":                  {inventory.Approval{Trust: inventory.TrustSigned}, ""},
		"anybody may":                      {inventory.Approval{Count: 3, Trust: inventory.TrustAny}, ""},
		"no group is named":                {inventory.Approval{Count: 1, Trust: inventory.TrustSigned}, "names no group"},
		"a group that is not configured":   {inventory.Approval{Count: 1, From: []string{"x"}}, "not under trust.approvers"},
		"more people than the groups have": {inventory.Approval{Count: 2, From: []string{"payments-owners"}}, "only one person can give one"},
	} {
		why := c.CannotApprove(g.gate, signed.Signer{Name: "carl"}, time.Now())
		if g.says == "" {
			assert.Empty(t, why, name)
			continue
		}
		assert.Contains(t, why, g.says, name)
	}
}

// bens is another key than anns.
const bens = "ben ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"

// Who can approve is counted as approvals are: by people whose key is valid now for that, without who asked where four eyes are wanted.
func TestWhoCouldApprove(t *testing.T) {
	t.Parallel()
	gate := func(count int, fourEyes bool) inventory.Approval {
		return inventory.Approval{Count: count, From: []string{"payments-owners"}, Trust: inventory.TrustSigned, FourEyes: fourEyes}
	}
	for name, c := range map[string]struct {
		approvers string
		gate      inventory.Approval
		requester string
		says      string
	}{
		"two people":                           {anns + bens, gate(2, false), "ann", ""},
		"one of them asked":                    {anns + bens, gate(2, true), "ann", "only one person can give one, beside ann, who signed the spec"},
		"somebody else asked":                  {anns + bens, gate(2, true), "carl", ""},
		"nobody knows who asked":               {anns + bens, gate(1, true), "", "nobody signed the spec"},
		"one whose key has ended":              {anns + strings.Replace(bens, "ben ", "ben valid-before=\"20200101Z\" ", 1), gate(2, false), "ann", "only one person"},
		"one whose key is for something else":  {anns + strings.Replace(bens, "ben ", "ben namespaces=\"spec@keyturn.dev\" ", 1), gate(2, false), "ann", "only one person"},
		"one whose key serves by another line": {anns + strings.Replace(bens, "ben ", "ben namespaces=\"x\" ", 1) + bens, gate(2, false), "ann", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, _, err := withSigners(t, anns, c.approvers)
			require.NoError(t, err)
			why := config.CannotApprove(c.gate, signed.Signer{Name: c.requester}, time.Now())
			if c.says == "" {
				assert.Empty(t, why)
			} else {
				assert.Contains(t, why, c.says)
			}
		})
	}
}

// One person is not two by two names, and a group can approve when the worker starts.
func TestGroupsThatCannotWork(t *testing.T) {
	t.Parallel()
	_, _, err := withSigners(t, anns, anns+strings.Replace(anns, "ann ", "ann-at-work ", 1))
	require.ErrorContains(t, err, "which is that of ann, too: one person would be two; write it under one name")
	_, _, err = withSigners(t, anns, strings.Replace(anns, "ann ", "ann valid-before=\"20200101Z\" ", 1))
	require.NoError(t, err, "whose keys have all ended holds up those alone who need the group")
	_, _, err = withSigners(t, anns, anns+anns)
	require.NoError(t, err, "a line that is there twice changes nothing")
}
