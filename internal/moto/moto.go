// Package moto runs moto, which imitates AWS, for tests: behind a proxy that refuses inactive keys, which
// moto does not, that counts what was called, and that can make a reply get lost. Nothing of it is linked
// into keyturn.
package moto

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/stretchr/testify/require"
)

// Region is where everything is.
const Region = "eu-central-1"

// T is what the package needs of *testing.T.
type T interface {
	require.TestingT
	Helper()
	Cleanup(func())
	Context() context.Context
	TempDir() string
}

// AWS is one moto with an administrator, who has set everything up, and a proxy before it.
type AWS struct {
	*Proxy
	t T
	// direct is moto itself.
	direct string
	admin  Key
}

// Key is an access key.
type Key struct{ ID, Secret string }

// Start starts moto on a free port, with all calls authenticated and authorised. Where moto is not
// installed the test is skipped, with a line that says how to get it; in CI that fails it.
func Start(t T) *AWS {
	t.Helper()
	return At(t, run(t, Need(t)))
}

// Need returns the program of moto, or ends the test.
func Need(t T) string {
	t.Helper()
	program, err := exec.LookPath("moto_server")
	if err != nil {
		missing(t)
	}
	return program
}

// At takes a moto that runs already.
func At(t T, address string) *AWS {
	t.Helper()
	a := &AWS{t: t, direct: "http://" + address}
	a.Proxy = newProxy(t, address)
	ctx := t.Context()
	anyone := iam.NewFromConfig(config(a.direct, Key{"anyone", "anything"}))
	_, err := anyone.CreateUser(ctx, &iam.CreateUserInput{UserName: aws.String("admin")})
	require.NoError(t, err)
	_, err = anyone.PutUserPolicy(ctx, &iam.PutUserPolicyInput{
		UserName: aws.String("admin"), PolicyName: aws.String("all"), PolicyDocument: aws.String(Allow("*")),
	})
	require.NoError(t, err)
	key, err := anyone.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: aws.String("admin")})
	require.NoError(t, err)
	a.admin = Key{*key.AccessKey.AccessKeyId, *key.AccessKey.SecretAccessKey}
	// From now on moto checks signatures and policies. Its environment variable counts calls from the start.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.direct+"/moto-api/reset-auth", strings.NewReader("0"))
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	return a
}

// Direct is the URL of moto itself, past the proxy.
func (a *AWS) Direct() string { return a.direct }

func missing(t T) {
	t.Helper()
	const how = `moto is not installed: pip install "moto[server]==5.2.5"`
	if os.Getenv("CI") != "" {
		require.Fail(t, how)
	}
	if s, ok := t.(interface{ Skip(args ...any) }); ok {
		s.Skip(how)
	}
	require.Fail(t, how)
}

// listens is how moto tells its address, once it takes calls.
var listens = regexp.MustCompile(`Running on http://(127\.0\.0\.1:[0-9]+)\s`)

// run starts moto on a port that is free, and returns its address once it listens. What it said is shown when the test
// fails.
func run(t T, program string) (address string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "moto.log"))
	require.NoError(t, err)
	server := exec.Command(program, "--host", "127.0.0.1", "--port", "0") //nolint:gosec,noctx // ended below
	server.Stdout, server.Stderr = out, out
	require.NoError(t, server.Start())
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	said := func() []byte {
		text, _ := os.ReadFile(out.Name())
		return text
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
		_ = out.Close()
		if f, ok := t.(interface {
			Failed() bool
			Logf(format string, args ...any)
		}); ok && f.Failed() {
			text := said()
			f.Logf("moto said, at last:\n%s", text[max(0, len(text)-16<<10):])
		}
	})
	hung := time.After(5 * time.Minute)
	for {
		if found := listens.FindSubmatch(said()); found != nil {
			return string(found[1])
		}
		select {
		case <-ended:
			require.Fail(t, "moto ended before it listened")
		case <-hung:
			require.Fail(t, "moto does not listen")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Allow is a policy document that allows actions on everything.
func Allow(actions ...string) string {
	text, err := json.Marshal(map[string]any{
		"Version": "2012-10-17", "Statement": []any{map[string]any{"Effect": "Allow", "Action": actions, "Resource": "*"}},
	})
	if err != nil {
		panic(err) // strings marshal
	}
	return string(text)
}

func config(endpoint string, k Key) aws.Config {
	return aws.Config{
		Region: Region, BaseEndpoint: aws.String(endpoint),
		Credentials: credentials.NewStaticCredentialsProvider(k.ID, k.Secret, ""),
	}
}

// Config is that of somebody with a key, who goes by the proxy.
func (a *AWS) Config(k Key) aws.Config { return config(a.Endpoint, k) }

// IAM is the administrator's client, past the proxy.
func (a *AWS) IAM() *iam.Client { return iam.NewFromConfig(config(a.direct, a.admin)) }

// Secrets is the administrator's client, past the proxy.
func (a *AWS) Secrets() *secretsmanager.Client {
	return secretsmanager.NewFromConfig(config(a.direct, a.admin))
}

// User makes a user with an inline policy of its own name.
func (a *AWS) User(name, document string) {
	a.t.Helper()
	_, err := a.IAM().CreateUser(a.t.Context(), &iam.CreateUserInput{UserName: &name})
	require.NoError(a.t, err)
	if document == "" {
		return
	}
	_, err = a.IAM().PutUserPolicy(a.t.Context(), &iam.PutUserPolicyInput{UserName: &name, PolicyName: &name, PolicyDocument: &document})
	require.NoError(a.t, err)
}

// AccessKey makes a key of a user.
func (a *AWS) AccessKey(user string) Key {
	a.t.Helper()
	out, err := a.IAM().CreateAccessKey(a.t.Context(), &iam.CreateAccessKeyInput{UserName: &user})
	require.NoError(a.t, err)
	return Key{*out.AccessKey.AccessKeyId, *out.AccessKey.SecretAccessKey}
}

// AccessKeys maps the keys of a user to their state, Active or Inactive.
func (a *AWS) AccessKeys(user string) map[string]string {
	a.t.Helper()
	out, err := a.IAM().ListAccessKeys(a.t.Context(), &iam.ListAccessKeysInput{UserName: &user})
	require.NoError(a.t, err)
	keys := map[string]string{}
	for _, k := range out.AccessKeyMetadata {
		keys[*k.AccessKeyId] = string(k.Status)
	}
	return keys
}

// Stages maps the versions of a secret to their labels.
func (a *AWS) Stages(name string) map[string][]string {
	a.t.Helper()
	out, err := a.Secrets().DescribeSecret(a.t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &name})
	require.NoError(a.t, err)
	stages := map[string][]string{}
	for version, labels := range out.VersionIdsToStages {
		if len(labels) > 0 {
			stages[version] = labels
		}
	}
	return stages
}

// Environment puts a key, the region and the proxy into the environment of the process, as the SDK reads
// it, and hides what the machine has.
func (a *AWS) Environment(t *testing.T, k Key) {
	t.Helper()
	for name, value := range a.Variables(k) {
		t.Setenv(name, value)
	}
}

// Variables are those of Environment.
func (a *AWS) Variables(k Key) map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": k.ID, "AWS_SECRET_ACCESS_KEY": k.Secret, "AWS_SESSION_TOKEN": "", "AWS_REGION": Region,
		"AWS_ENDPOINT_URL": a.Endpoint, "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	}
}

// String names the two ends.
func (a *AWS) String() string { return fmt.Sprintf("moto at %s behind %s", a.direct, a.Endpoint) }
