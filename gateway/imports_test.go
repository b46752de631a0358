package gateway_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever embeds the package gets these packages beside the standard library, and no other.
func TestWhatAGatewayEmbeds(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{
		"github.com/gofrs/flock",
		"golang.org/x/sys/unix",
		"github.com/keyturn/keyturn/gateway",
		"github.com/keyturn/keyturn/internal/atomicfile",
		"github.com/keyturn/keyturn/internal/gatewayfile",
		"github.com/keyturn/keyturn/internal/key",
		"github.com/keyturn/keyturn/internal/outside",
		"github.com/keyturn/keyturn/internal/secret",
	}, strings.Fields(string(out)))
}
