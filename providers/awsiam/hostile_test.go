package awsiam

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

// An endpoint that poses as AWS, or a proxy before it, answers whatever it likes.
func TestHostileEndpoint(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	sent := secret.NewBundle(map[string]secret.Value{
		defaultKeyIDField: secret.New([]byte("AKIAIOSFODNN7EXAMPLE")), defaultSecretField: secret.New([]byte("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")),
	})
	ref := key.Ref{KeyID: "AKIAIOSFODNN7EXAMPLE"}
	for name, c := range map[string]struct {
		sent secret.Bundle
		ask  func(ctx context.Context, i *issuer) error
	}{
		"listing": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.List(ctx)
			return err
		}},
		"issuing": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.Issue(ctx, providers.IssueRequest{Token: "t"})
			return err
		}},
		"testing a key": {sent, func(ctx context.Context, i *issuer) error { return i.SelfTest(ctx, sent) }},
		"checking rights": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.policies(ctx)
			return err
		}},
		"who the worker is": {secret.Bundle{}, func(ctx context.Context, i *issuer) error {
			_, err := i.checkIdentity(ctx)
			return err
		}},
		"disabling":  {secret.Bundle{}, func(ctx context.Context, i *issuer) error { return i.Disable(ctx, ref) }},
		"destroying": {secret.Bundle{}, func(ctx context.Context, i *issuer) error { return i.Destroy(ctx, ref) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			providertest.Hostile(t, providertest.HostileSetup{Sent: c.sent, Content: true, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
				address, taken := r.Serve(t, c.sent)
				account := &Account{Account: awsaccount.Account{Region: "eu-central-1", Endpoint: address}}
				require.Empty(t, account.Problems())
				return func(ctx context.Context) (any, error) {
					return nil, c.ask(ctx, &issuer{account: account, config: Config{Principal: "payments-api"}})
				}, taken
			}})
		})
	}
}

// Who used a key is told by the names that AWS gives to its own services and regions, and by no others.
func TestWhoUsedAKeyIsToldByAWSsOwnNamesAlone(t *testing.T) {
	var service, region string
	account := fakeIAM(t, func(action string, _ map[string][]string) string {
		if action == "ListAccessKeys" {
			return `<IsTruncated>false</IsTruncated><AccessKeyMetadata><member><AccessKeyId>AKIAIOSFODNN7EXAMPLE</AccessKeyId><Status>Active</Status></member></AccessKeyMetadata>`
		}
		text := strings.NewReplacer("&", "&amp;", "<", "&lt;", "\r", "&#13;")
		return `<AccessKeyLastUsed><LastUsedDate>2026-05-04T03:02:01Z</LastUsedDate><ServiceName>` + text.Replace(service) +
			`</ServiceName><Region>` + text.Replace(region) + `</Region></AccessKeyLastUsed>`
	})
	lastUsedBy := func(ofService, ofRegion string) string {
		service, region = ofService, ofRegion
		list, err := (&issuer{account: account, config: Config{Principal: "payments-api"}}).List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		return list[0].LastUsedBy
	}
	assert.Equal(t, "s3 in eu-central-1", lastUsedBy("s3", "eu-central-1"))
	assert.Equal(t, "sts in N/A", lastUsedBy("sts", "N/A"))
	for _, told := range providertest.Tellings(secret.Bundle{}) {
		for _, by := range []string{lastUsedBy(told, "eu-central-1"), lastUsedBy("s3", told)} {
			assert.Equal(t, "a service whose name is none of AWS's", by)
		}
	}
}
