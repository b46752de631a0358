package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	secretstypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// SecretName is the secret of the sandbox on AWS.
const SecretName = "sandbox/" + Credential

// refreshAfter is after how many requests a consumer on AWS reads the secret again.
const refreshAfter = 4

// withAWS makes the IAM user, its first key and the secret, and consumers that read it.
func (s *Services) withAWS(ctx context.Context, o Options, setting Setting) error {
	c, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("reading AWS's environment: %w", err)
	}
	if err := setting.writeFiles(); err != nil {
		return err
	}
	if err := seedAWS(ctx, c); err != nil {
		return err
	}
	s.place = setting.place()
	for _, name := range Instances {
		labels := []string{"AWSCURRENT"}
		if name == Instances[0] {
			labels = []string{"AWSPENDING", "AWSCURRENT"}
		}
		from := &pulled{config: c, secrets: secretsmanager.NewFromConfig(c), labels: labels, stuck: slices.Contains(o.Stuck, name)}
		if err := from.refresh(ctx); err != nil {
			return fmt.Errorf("starting consumer %s: %w", name, err)
		}
		from.follow(refreshAfter * o.Every)
		s.consumers = append(s.consumers, newConsumer(name, o.Every, from))
	}
	return nil
}

// accessKey is the secret's JSON.
type accessKey struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string `json:"SecretAccessKey"`
	// Endpoint is a member that has nothing to do with the key, and must stay.
	Endpoint string `json:"endpoint"`
}

// seedAWS makes what is missing: the user with its one policy, a key, and the secret with it.
func seedAWS(ctx context.Context, c aws.Config) error {
	const policy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::payments/*"}]}`
	users, secrets, name := iam.NewFromConfig(c), secretsmanager.NewFromConfig(c), aws.String(Credential)
	_, err := secrets.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: aws.String(SecretName)})
	var absent *secretstypes.ResourceNotFoundException
	if err == nil || !errors.As(err, &absent) {
		return err // it was seeded before
	}
	_, err = users.CreateUser(ctx, &iam.CreateUserInput{UserName: name})
	var exists *iamtypes.EntityAlreadyExistsException
	if err != nil && !errors.As(err, &exists) {
		return err
	}
	if _, err := users.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: name, PolicyName: name, PolicyDocument: aws.String(policy)}); err != nil {
		return err
	}
	made, err := users.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: name})
	if err != nil {
		return err
	}
	value, err := json.Marshal(accessKey{*made.AccessKey.AccessKeyId, *made.AccessKey.SecretAccessKey, "https://payments.example.com"})
	if err != nil {
		return err
	}
	_, err = secrets.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: aws.String(SecretName), SecretString: aws.String(string(value))})
	return err
}

// ForgetAWS removes the secret and the user's keys of an earlier sandbox, whose rotation may not have ended.
func ForgetAWS(ctx context.Context) error {
	c, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("reading AWS's environment: %w", err)
	}
	users, secrets, name := iam.NewFromConfig(c), secretsmanager.NewFromConfig(c), aws.String(Credential)
	_, err = secrets.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: aws.String(SecretName), ForceDeleteWithoutRecovery: aws.Bool(true)})
	var absent *secretstypes.ResourceNotFoundException
	if errors.As(err, &absent) {
		return nil // then no sandbox was here, and a user of that name is somebody's
	}
	if err != nil {
		return err
	}
	left, err := users.ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: name})
	var nobody *iamtypes.NoSuchEntityException
	if errors.As(err, &nobody) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, k := range left.AccessKeyMetadata {
		if _, err := users.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: name, AccessKeyId: k.AccessKeyId}); err != nil {
			return err
		}
	}
	return nil
}

// pulled is a source that reads the secret by itself and signs calls with the access key in it.
type pulled struct {
	config  aws.Config
	secrets *secretsmanager.Client
	labels  []string // the first that there is counts
	stuck   bool

	mu   sync.Mutex
	id   string
	call *sts.Client

	stop context.CancelFunc
	done chan struct{}
}

// refresh reads the secret anew. When it cannot be read, the key in use stays.
func (p *pulled) refresh(ctx context.Context) error {
	for _, label := range p.labels {
		out, err := p.secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String(SecretName), VersionStage: &label})
		var absent *secretstypes.ResourceNotFoundException
		if errors.As(err, &absent) {
			continue
		}
		if err != nil {
			return err
		}
		var k accessKey
		if err := json.Unmarshal([]byte(aws.ToString(out.SecretString)), &k); err != nil || k.AccessKeyID == "" {
			return errors.New("the secret has no access key in it")
		}
		inUse := p.key()
		if k.AccessKeyID == inUse {
			return nil
		}
		own := p.config.Copy()
		own.Credentials = credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.SecretAccessKey, "")
		// Each request is one, so that a refusal is never hidden by another try.
		call := sts.NewFromConfig(own, func(o *sts.Options) { o.Retryer = aws.NopRetryer{} })
		if inUse != "" && label == "AWSPENDING" { // nobody has tried it yet
			if _, err := call.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil {
				return fmt.Errorf("trying key %s, which is pending: %w", k.AccessKeyID, err)
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.id, p.call = k.AccessKeyID, call
		return nil
	}
	return errors.New("the secret has no version to read")
}

// follow refreshes until close.
func (p *pulled) follow(every time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	p.stop, p.done = stop, make(chan struct{})
	go func() {
		defer close(p.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if !p.stuck {
					_ = p.refresh(ctx) // the next one may do better
				}
			}
		}
	}()
}

func (p *pulled) close() {
	p.stop()
	<-p.done
}

func (p *pulled) key() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

func (p *pulled) attest(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]string{"key": p.key()})
}

func (p *pulled) use(ctx context.Context) (status int, keyID string) {
	p.mu.Lock()
	call, id := p.call, p.id
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := call.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	var answered *awshttp.ResponseError
	switch {
	case err == nil:
		return http.StatusOK, id
	case errors.As(err, &answered):
		return answered.HTTPStatusCode(), id
	}
	return 0, id
}
