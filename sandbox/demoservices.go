package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/sandbox/internal/demo"
)

func newDemoServices() *cobra.Command {
	var (
		folder string
		moto   bool
		o      demo.Options
	)
	o.Windows = demo.DefaultWindows
	cmd := &cobra.Command{
		Use:    "demo-services",
		Short:  "Runs the gateway and the consumers alone, beside a worker that is started otherwise",
		Hidden: true,
		Long: `Runs the demo gateway and its consumers in a process of their own, until SIGTERM. It makes the folder's
state when it is missing: a key that all of them use, inventory.yaml and keyturn-worker.yaml.

The first line of its output says in JSON where everything is, the last one, after the last request was
answered, what was counted. GET /snapshot tells the counts meanwhile.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Folder, err = demo.MakeFolder(folder); err != nil {
				return err
			}
			if moto {
				if err := shareMoto(cmd.Context(), o.Folder); err != nil {
					return err
				}
			}
			return runDemoServices(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&folder, "folder", "", "folder of the state; a new temporary one when empty")
	f.DurationVar(&o.Every, "every", demo.DefaultEvery, "time between two requests of one consumer")
	f.StringSliceVar(&o.Stuck, "stuck", nil, "instances that never read their key file again, such as checkout-b")
	f.BoolVar(&o.AWS, "aws", false, "IAM and Secrets Manager instead of the gateway and files, as the environment of AWS's SDK names them")
	f.BoolVar(&moto, "moto", false, "with --aws: what AWS_ENDPOINT_URL names is a moto; it shall check who calls, and the folder's aws-credentials have a key for it")
	f.IntVar(&o.GatewayPort, "gateway-port", 0, "port of the gateway; 0 for a free one")
	f.IntVar(&o.ConsumersPort, "consumers-port", 0, "port of the consumers; 0 for a free one")
	f.TextVar(&o.Windows.Overlap, "overlap", o.Windows.Overlap, "overlap of the inventory")
	f.TextVar(&o.Windows.Quiet, "quiet-window", o.Windows.Quiet, "quietWindow of the inventory")
	f.TextVar(&o.Windows.WaveSoak, "wave-soak", o.Windows.WaveSoak, "waveSoak of the inventory")
	f.TextVar(&o.Windows.DisableSoak, "disable-soak", o.Windows.DisableSoak, "disableSoak of the inventory")
	return cmd
}

// shareMoto lets moto check who calls, and leaves a key for the worker.
func shareMoto(ctx context.Context, folder demo.Folder) error {
	_, key, err := useMoto(ctx, cmp.Or(os.Getenv("AWS_ENDPOINT_URL"), motoEndpoint))
	if err != nil {
		return err
	}
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", aws.ToString(key.AccessKeyId), aws.ToString(key.SecretAccessKey))
	if err := os.WriteFile(folder.AWSCredentials(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("leaving a key for the worker: %w", err)
	}
	return nil
}

func runDemoServices(ctx context.Context, o demo.Options, out io.Writer) error {
	s, err := demo.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := json.NewEncoder(out).Encode(s.Place()); err != nil {
		return fmt.Errorf("saying where the services are: %w", err)
	}
	<-ctx.Done()
	s.Stop()
	return json.NewEncoder(out).Encode(s.Snapshot())
}
