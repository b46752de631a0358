// Package connection reaches Temporal, for both programs in the same way: by Temporal's standard environment configuration
// (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE, …, and the TOML file). Flags go first.
package connection

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
)

// Flags are what a command line says of the connection. Empty ones leave it to the environment configuration.
type Flags struct {
	Address, Namespace, Profile string
}

// Add gives the flags to a command and those below it.
func (f *Flags) Add(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.Address, "address", "", "host:port of the Temporal frontend (default from Temporal's environment configuration)")
	flags.StringVar(&f.Namespace, "namespace", "", "Temporal namespace")
	flags.StringVar(&f.Profile, "profile", "", "profile of Temporal's environment configuration")
}

// Options say where Temporal is and how to call it. Their HostPort and Namespace are never empty.
func (f Flags) Options() (client.Options, error) {
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{ConfigFileProfile: f.Profile})
	if err != nil {
		return options, fmt.Errorf("reading Temporal's environment configuration: %w", err)
	}
	options.HostPort = cmp.Or(f.Address, options.HostPort, client.DefaultHostPort)
	options.Namespace = cmp.Or(f.Namespace, options.Namespace, client.DefaultNamespace)
	return options, nil
}

// Dial connects. An error says where Temporal was looked for, why it was not found, and what to do.
func Dial(ctx context.Context, o client.Options) (client.Client, error) {
	c, err := client.DialContext(ctx, o)
	if err != nil {
		return nil, explain(ctx, o, err)
	}
	return c, nil
}
