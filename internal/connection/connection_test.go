package connection_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/keyturn/keyturn/internal/connection"
)

func TestWhereTemporalIs(t *testing.T) {
	const profiles = `
[profile.default]
address = "default.internal:7233"
namespace = "of-default"

[profile.other]
address = "other.internal:7233"
`
	for name, c := range map[string]struct {
		file, env string
		args      []string
		address   string
		namespace string
	}{
		"where nothing is said, it is Temporal's own default": {"", "", nil, client.DefaultHostPort, client.DefaultNamespace},
		"the file has a default profile":                      {profiles, "", nil, "default.internal:7233", "of-default"},
		"a flag chooses another profile":                      {profiles, "", []string{"--profile", "other"}, "other.internal:7233", client.DefaultNamespace},
		"the environment goes before the file":                {profiles, "env.internal:7233", nil, "env.internal:7233", "of-default"},
		"flags go before both":                                {profiles, "env.internal:7233", []string{"--address", "flag.internal:7233", "--namespace", "of-flag"}, "flag.internal:7233", "of-flag"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "temporal.toml")
			require.NoError(t, os.WriteFile(file, []byte(c.file), 0o600))
			t.Setenv("TEMPORAL_CONFIG_FILE", file)
			for _, name := range []string{"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_PROFILE"} {
				t.Setenv(name, "") // so that it is as it was after the test
				require.NoError(t, os.Unsetenv(name))
			}
			if c.env != "" {
				require.NoError(t, os.Setenv("TEMPORAL_ADDRESS", c.env))
			}
			var flags connection.Flags
			cmd := &cobra.Command{}
			flags.Add(cmd)
			require.NoError(t, cmd.ParseFlags(c.args))
			options, err := flags.Options()
			require.NoError(t, err)
			assert.Equal(t, c.address, options.HostPort)
			assert.Equal(t, c.namespace, options.Namespace)
		})
	}
	t.Run("a profile that is not there is an error", func(t *testing.T) {
		_, err := connection.Flags{Profile: "nobody"}.Options()
		assert.ErrorContains(t, err, "reading Temporal's environment configuration")
	})
}
