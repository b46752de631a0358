package gateway_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/gateway"
)

// A key file that a container engine mounts by itself can be read, and never replaced: that is known before a rotation begins.
func TestProbeDoesWhatAChangeDoes(t *testing.T) {
	t.Parallel()
	e := newEdge(t)
	from := filepath.Join(t.TempDir(), "keys.json")
	text, err := os.ReadFile(e.keyFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(from, text, 0o600))
	if err := syscall.Mount(from, e.keyFile, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted here (%v): run the tests as root", err)
	}
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(e.keyFile, syscall.MNT_DETACH)) })
	account := gateway.Account{KeyFile: e.keyFile}
	probed, err := account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.NoError(t, err)
	require.Len(t, probed.Lacks, 1)
	assert.Contains(t, probed.Lacks[0], "it is mounted there by itself")
	_, err = e.issuer(t, "payments-api").Issue(t.Context(), providers.IssueRequest{Token: "t1"})
	require.Error(t, err)
}
