package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/sandbox/internal/demo"
)

// motoEndpoint is where moto listens unless told otherwise.
const motoEndpoint = "http://127.0.0.1:5000"

func newAWS() *cobra.Command {
	o := demoOptions{aws: true}
	endpoint := cmp.Or(os.Getenv("AWS_ENDPOINT_URL"), motoEndpoint)
	cmd := &cobra.Command{
		Use:   "aws",
		Short: "Rotates the access key of an IAM user, in Secrets Manager, on a moto that is running",
		Long: `Runs the demonstration on AWS's interfaces: an IAM user whose access key is in Secrets Manager, from where three
consumers read it and sign a call every 50 ms. AWS is moto, which imitates it on this machine:

  pip install "moto[server]" && moto_server -p 5000

Nothing but an address of this host is accepted, and the keys and profiles of your environment are not used. While it
runs, moto checks signatures and policies, so that a revoked key is really refused; calls of others need a key then.
Without --folder it begins anew, and removes what an earlier sandbox left there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			restore, _, err := useMoto(cmd.Context(), endpoint)
			if err != nil {
				return err
			}
			if o.folder == "" { // a new state, so a new credential, too
				if err := demo.ForgetAWS(cmd.Context()); err != nil {
					return errors.Join(fmt.Errorf("removing what an earlier sandbox left at moto: %w", err), restore())
				}
			}
			return errors.Join(runDemo(cmd.Context(), o, cmd.OutOrStdout()), restore())
		},
	}
	addDemoFlags(cmd, &o)
	cmd.Flags().StringVar(&endpoint, "endpoint", endpoint, "URL of moto")
	return cmd
}

// administrator is the user as whom the sandbox works at moto.
const administrator = "keyturn-sandbox"

// useMoto makes moto AWS for this process, with an administrator of its own, and lets it check who calls
// until restore.
func useMoto(ctx context.Context, endpoint string) (restore func() error, key *types.AccessKey, err error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback() {
		return nil, nil, fmt.Errorf("the endpoint %q is no http URL of this host: this sandbox makes users and keys, and is only for a double of AWS", endpoint)
	}
	before, err := checkCallers(ctx, endpoint, "inf") // whoever ran it before may have left it checking
	if err != nil {
		return nil, nil, err
	}
	c := aws.Config{Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("sandbox", "sandbox", "")}
	key, err = makeAdministrator(ctx, iam.NewFromConfig(c))
	if err != nil {
		return nil, nil, fmt.Errorf("making a user at moto: %w", err)
	}
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": aws.ToString(key.AccessKeyId), "AWS_SECRET_ACCESS_KEY": aws.ToString(key.SecretAccessKey),
		"AWS_SESSION_TOKEN": "", "AWS_REGION": c.Region, "AWS_PROFILE": "", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		if err := os.Setenv(name, value); err != nil {
			return nil, nil, err
		}
	}
	if _, err := checkCallers(ctx, endpoint, "0"); err != nil {
		return nil, nil, err
	}
	return func() error {
		_, err := checkCallers(context.WithoutCancel(ctx), endpoint, before)
		return err
	}, key, nil
}

// checkCallers says after how many calls moto checks signatures and policies, and returns what held before.
func checkCallers(ctx context.Context, endpoint, after string) (before string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+"/moto-api/reset-auth", strings.NewReader(after)) //nolint:gosec // a loopback address
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request) //nolint:gosec // as above
	if err != nil {
		return "", fmt.Errorf("nothing answers at %s: start moto, with: pip install \"moto[server]\" && moto_server -p 5000 (%w)", endpoint, err)
	}
	defer answer.Body.Close()
	var was struct {
		Before string `json:"PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<16)).Decode(&was); err != nil || answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("what answers at %s is not moto: start it, with: pip install \"moto[server]\" && moto_server -p 5000", endpoint)
	}
	return was.Before, nil
}

// makeAdministrator gives the administrator a new key, and takes those of earlier sandboxes.
func makeAdministrator(ctx context.Context, c *iam.Client) (*types.AccessKey, error) {
	name := aws.String(administrator)
	_, err := c.CreateUser(ctx, &iam.CreateUserInput{UserName: name})
	var exists *types.EntityAlreadyExistsException
	if err != nil && !errors.As(err, &exists) {
		return nil, err
	}
	_, err = c.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: name, PolicyName: name,
		PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)})
	if err != nil {
		return nil, err
	}
	old, err := c.ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: name})
	if err != nil {
		return nil, err
	}
	for _, k := range old.AccessKeyMetadata {
		if _, err := c.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: name, AccessKeyId: k.AccessKeyId}); err != nil {
			return nil, err
		}
	}
	made, err := c.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: name})
	if err != nil {
		return nil, err
	}
	return made.AccessKey, nil
}
