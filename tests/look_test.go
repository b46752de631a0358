package tests

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	secretstypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keyturn/keyturn/gateway"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers/awssecretsmanager"
)

// lookAtFiles reads the gateway's file, the store's and the instances'.
func (v *victim) lookAtFiles() (look, error) {
	demo := filepath.Dir(v.place.Audit)
	l := look{keys: map[string]key.State{}, versions: map[string]string{}, holds: map[string]string{}}
	var issuer struct {
		Keys []struct {
			ID    string
			State key.State
		}
	}
	if err := readJSON(filepath.Join(demo, "gateway", "keys.json"), &issuer); err != nil {
		return l, err
	}
	for _, k := range issuer.Keys {
		l.keys[k.ID] = k.State
	}
	var store struct {
		Versions []struct{ ID string }
		Labels   map[key.Label]string
		Metadata key.Metadata
	}
	folder := filepath.Join(demo, "store", credential)
	if err := readJSON(filepath.Join(folder, "state.json"), &store); err != nil {
		return l, err
	}
	l.labels, l.metadata = store.Labels, store.Metadata
	for _, version := range store.Versions {
		var bundle map[string]string
		if err := readJSON(filepath.Join(folder, "versions", version.ID+".json"), &bundle); err != nil {
			return l, err
		}
		for _, value := range bundle {
			l.versions[version.ID] = keyIn(value)
			v.values[keyIn(value)] = value
		}
	}
	for _, instance := range []string{"checkout-canary", "checkout-a", "checkout-b"} {
		text, err := os.ReadFile(filepath.Join(demo, "keys", instance, credential))
		if err != nil {
			return l, err
		}
		l.holds[instance] = keyIn(strings.TrimSpace(string(text)))
	}
	return l, nil
}

// byHand is the gateway's key that there was before keyturn.
const byHand = "made-by-hand-in-2024"

// keyIn is the ID of a gateway's key: it is part of those that keyturn makes.
func keyIn(value string) string {
	if id, ok := gateway.ParseToken(value); ok {
		return id
	}
	return byHand
}

// metadataOnAWS reads keyturn's record in the companion of the secret; there is none before the first mint.
func metadataOnAWS(ctx context.Context, secrets *secretsmanager.Client) (key.Metadata, error) {
	record, err := secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{
		SecretId: aws.String(secretName + ".keyturn"), VersionStage: aws.String("AWSCURRENT"), // moto's default is another one
	})
	if none := new(secretstypes.ResourceNotFoundException); errors.As(err, &none) {
		return key.Metadata{}, nil
	}
	if err != nil {
		return key.Metadata{}, err
	}
	return awssecretsmanager.Decode(*record.SecretString)
}

// lookAtAWS asks past the proxy.
func (v *victim) lookAtAWS() (look, error) {
	l := look{keys: map[string]key.State{}, versions: map[string]string{}, labels: map[key.Label]string{}}
	ctx, secrets := v.t.Context(), v.aws.Secrets()
	listed, err := v.aws.IAM().ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: aws.String(credential)})
	if err != nil {
		return l, err
	}
	for _, k := range listed.AccessKeyMetadata {
		l.keys[*k.AccessKeyId] = map[types.StatusType]key.State{types.StatusTypeActive: key.Active, types.StatusTypeInactive: key.Disabled}[k.Status]
	}
	secret, err := secrets.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: aws.String(secretName)})
	if err != nil {
		return l, err
	}
	if l.metadata, err = metadataOnAWS(ctx, secrets); err != nil {
		return l, err
	}
	for version, stages := range secret.VersionIdsToStages {
		if len(stages) == 0 {
			continue
		}
		out, err := secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String(secretName), VersionId: &version})
		if err != nil {
			return l, err
		}
		var k struct{ AccessKeyId, SecretAccessKey string } //nolint:revive // AWS's spelling
		if err := json.Unmarshal([]byte(*out.SecretString), &k); err != nil {
			return l, err
		}
		l.versions[version] = k.AccessKeyId
		v.values[k.AccessKeyId] = k.SecretAccessKey
		for _, stage := range stages {
			label := map[string]key.Label{"AWSCURRENT": key.Current, "AWSPENDING": key.Pending, "AWSPREVIOUS": key.Previous}[stage]
			l.labels[label] = version
		}
	}
	return l, nil
}
