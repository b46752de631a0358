package awsiam

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
)

// issuer serves one IAM user.
type issuer struct {
	account *Account
	config  Config
}

var (
	_ providers.Issuer        = (*issuer)(nil)
	_ providers.Disabler      = (*issuer)(nil)
	_ providers.SelfTester    = (*issuer)(nil)
	_ providers.RightsChecker = (*issuer)(nil)
)

func (i *issuer) iam(ctx context.Context) (*iam.Client, error) { return i.account.iam(ctx) }

func (i *issuer) user() *string { return aws.String(i.config.Principal) }

// Capabilities implements providers.Issuer.
func (i *issuer) Capabilities(context.Context) (key.Capabilities, error) {
	return capabilities(i.account, i.config), nil
}

// List implements providers.Issuer.
func (i *issuer) List(ctx context.Context) ([]key.Info, error) {
	client, err := i.iam(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := i.keys(ctx, client)
	if err != nil {
		return nil, err
	}
	list := make([]key.Info, 0, len(keys))
	for _, k := range keys {
		info := key.Info{Principal: i.config.Principal, KeyID: aws.ToString(k.AccessKeyId), State: key.Active, CreatedAt: aws.ToTime(k.CreateDate)}
		if k.Status != types.StatusTypeActive {
			info.State = key.Disabled
		}
		used, err := client.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: k.AccessKeyId})
		// One that IAM does not find was listed a moment ago: of two answers, the one that it is there counts.
		if err := awsaccount.Error("asking for the last use of a key", err); err != nil && !errors.Is(err, providers.ErrNotFound) {
			return nil, err
		}
		// No date means that IAM has recorded no use, and not that there was none.
		if used == nil {
			used = &iam.GetAccessKeyLastUsedOutput{}
		}
		if last := used.AccessKeyLastUsed; last != nil && last.LastUsedDate != nil {
			info.LastUsedAt, info.LastUsedBy = *last.LastUsedDate, userOfKey(last)
		}
		list = append(list, info)
	}
	slices.SortStableFunc(list, func(a, b key.Info) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return list, nil
}

// userOfKey says by what a key was used last: by names that AWS gives to its own services and regions.
func userOfKey(last *types.AccessKeyLastUsed) string {
	service, region := aws.ToString(last.ServiceName), aws.ToString(last.Region)
	if !ownNameForm.MatchString(service) || !ownNameForm.MatchString(region) {
		return "a service whose name is none of AWS's"
	}
	return service + " in " + region
}

// ownNameForm is the form of AWS's names for its own; N/A where it tells none.
var ownNameForm = regexp.MustCompile(`^([a-z][a-z0-9-]{0,30}|N/A)$`)

// keyIDForm is IAM's form of an access key's ID (API reference, AccessKey).
var keyIDForm = regexp.MustCompile(`^\w{16,128}$`)

// keys lists the user's access keys.
func (i *issuer) keys(ctx context.Context, client *iam.Client) ([]types.AccessKeyMetadata, error) {
	doing := fmt.Sprintf("listing access keys of user %q", i.config.Principal)
	var keys []types.AccessKeyMetadata
	pages := iam.NewListAccessKeysPaginator(client, &iam.ListAccessKeysInput{UserName: i.user()})
	err := awsaccount.Pages(ctx, pages, func(page *iam.ListAccessKeysOutput) error {
		keys = append(keys, page.AccessKeyMetadata...)
		return nil
	})
	if err != nil {
		return nil, awsaccount.Error(doing, err)
	}
	for _, k := range keys {
		if !keyIDForm.MatchString(aws.ToString(k.AccessKeyId)) {
			return nil, fmt.Errorf("%s: the answer has a key without a proper ID", doing)
		}
	}
	return keys, nil
}

// Issue implements providers.Issuer. CreateAccessKey knows no tokens: each call that takes effect makes a
// key, so that the SDK must not repeat it on its own when a reply gets lost.
func (i *issuer) Issue(ctx context.Context, r providers.IssueRequest) (providers.Issued, error) {
	doing := fmt.Sprintf("creating access key of user %q", i.config.Principal)
	switch {
	case r.Token == "":
		return providers.Issued{}, fmt.Errorf("%s: %w: there is no token", doing, providers.ErrInvalid)
	case r.Principal != "" && r.Principal != i.config.Principal:
		return providers.Issued{}, fmt.Errorf("%s: %w: it was asked for another user", doing, providers.ErrInvalid)
	case !r.ExpiresAt.IsZero():
		return providers.Issued{}, fmt.Errorf("%s: %w: access keys have no end", doing, providers.ErrUnsupported)
	}
	client, err := i.iam(ctx)
	if err != nil {
		return providers.Issued{}, err
	}
	out, err := client.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: i.user()}, func(o *iam.Options) { o.Retryer = aws.NopRetryer{} })
	if code := awsaccount.Code(err); code == "LimitExceeded" || code == "LimitExceededException" {
		return providers.Issued{}, fmt.Errorf("%s: %w: %d of %d", doing, providers.ErrSlotsFull, slots, slots)
	}
	if err != nil {
		return providers.Issued{}, awsaccount.Error(doing, err)
	}
	k := out.AccessKey
	if k == nil || !keyIDForm.MatchString(aws.ToString(k.AccessKeyId)) || aws.ToString(k.SecretAccessKey) == "" {
		return providers.Issued{}, fmt.Errorf("%s: the answer has no key", doing)
	}
	return providers.Issued{
		Key: key.Info{Principal: i.config.Principal, KeyID: *k.AccessKeyId, State: key.Active, CreatedAt: aws.ToTime(k.CreateDate)},
		Bundle: secret.NewBundle(map[string]secret.Value{
			i.config.keyID():     secret.New([]byte(*k.AccessKeyId)),
			i.config.secretKey(): secret.New([]byte(*k.SecretAccessKey)),
		}),
	}, nil
}

// temporaryPrefix begins the key ID of credentials that STS lends for a while (IAM User Guide, "unique ID
// prefixes").
const temporaryPrefix = "ASIA"

// Identify implements providers.Issuer. A temporary key is no key of the user, and not an absent one
// either: ErrDenied says so.
func (i *issuer) Identify(ctx context.Context, b secret.Bundle) (string, error) {
	doing := fmt.Sprintf("identifying access key of user %q", i.config.Principal)
	id, ok := b.Field(i.config.keyID())
	if !ok {
		return "", fmt.Errorf("%s: %w: there is no field %q", doing, providers.ErrNotFound, i.config.keyID())
	}
	if _, ok := b.Field(i.config.secretKey()); !ok {
		return "", fmt.Errorf("%s: %w: there is no field %q", doing, providers.ErrNotFound, i.config.secretKey())
	}
	named := string(id.Reveal())
	if strings.HasPrefix(named, temporaryPrefix) {
		return "", fmt.Errorf("%s: %w: it is a temporary key of STS (%s…), which ends by itself and cannot be rotated: put a key of the user into the secret", doing, providers.ErrDenied, temporaryPrefix)
	}
	client, err := i.iam(ctx)
	if err != nil {
		return "", err
	}
	keys, err := i.keys(ctx, client)
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		if aws.ToString(k.AccessKeyId) == named {
			return named, nil
		}
	}
	return "", fmt.Errorf("%s: %w", doing, providers.ErrNotFound)
}

// Disable implements providers.Disabler.
func (i *issuer) Disable(ctx context.Context, k key.Ref) error {
	return i.setStatus(ctx, "disabling", k, types.StatusTypeInactive)
}

// Enable implements providers.Disabler.
func (i *issuer) Enable(ctx context.Context, k key.Ref) error {
	return i.setStatus(ctx, "enabling", k, types.StatusTypeActive)
}

func (i *issuer) setStatus(ctx context.Context, doing string, k key.Ref, status types.StatusType) error {
	client, err := i.iam(ctx)
	if err != nil {
		return err
	}
	_, err = client.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: i.user(), AccessKeyId: aws.String(k.KeyID), Status: status})
	return awsaccount.Error(fmt.Sprintf("%s access key of user %q", doing, i.config.Principal), err)
}

// Destroy implements providers.Issuer. A user that does not exist has no keys.
func (i *issuer) Destroy(ctx context.Context, k key.Ref) error {
	client, err := i.iam(ctx)
	if err != nil {
		return err
	}
	_, err = client.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: i.user(), AccessKeyId: aws.String(k.KeyID)})
	err = awsaccount.Error(fmt.Sprintf("deleting access key of user %q", i.config.Principal), err)
	if errors.Is(err, providers.ErrNotFound) {
		return nil
	}
	return err
}

// isRefusal tells whether STS refused a key, by what it says of it (API reference, "Common error types"): that it is no key, or that
// its secret is another. A status of 403 alone proves nothing: proxies and endpoints in between refuse, too, and so does AWS when the
// time of a request is off. A double, such as moto, may say it in a form of its own, and has nothing in between.
func isRefusal(err error, double bool) bool {
	switch awsaccount.Code(err) {
	case "InvalidClientTokenId":
		return true
	case "SignatureDoesNotMatch":
		text := err.Error()
		return !strings.Contains(text, "Signature expired") && !strings.Contains(text, "Signature not yet current")
	case "":
		var status *awshttp.ResponseError
		var answer smithy.APIError
		return double && errors.As(err, &answer) && errors.As(err, &status) && status.HTTPStatusCode() == http.StatusForbidden
	}
	return false
}

// SelfTest implements providers.SelfTester: it asks STS whose key it is, which every key may.
func (i *issuer) SelfTest(ctx context.Context, b secret.Bundle) error {
	doing := fmt.Sprintf("asking STS with an access key of user %q", i.config.Principal)
	id, _ := b.Field(i.config.keyID())
	value, _ := b.Field(i.config.secretKey())
	if id.Len() == 0 || value.Len() == 0 {
		return fmt.Errorf("%s: %w: half of it is missing", doing, providers.ErrKeyRefused)
	}
	c, err := i.account.Config(ctx)
	if err != nil {
		return err
	}
	c.Credentials = credentials.NewStaticCredentialsProvider(string(id.Reveal()), string(value.Reveal()), "")
	own, err := sts.NewFromConfig(c).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, func(o *sts.Options) { o.Retryer = aws.NopRetryer{} })
	if isRefusal(err, i.account.OnThisHost("STS")) {
		return fmt.Errorf("%s: %w: %w", doing, providers.ErrKeyRefused, awsaccount.Error("it answers", err))
	}
	if err != nil {
		return awsaccount.Error(doing, err)
	}
	if user, _ := userOf(aws.ToString(own.Arn)); !strings.EqualFold(user, i.config.Principal) { // as IAM compares them
		return fmt.Errorf("%s: %w: it is a key of another identity", doing, providers.ErrInvalid)
	}
	return nil
}

// userOf is the name of the user that an ARN is of, and whether the ARN is that of root.
func userOf(arn string) (name string, root bool) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 {
		return "", false
	}
	path, isUser := strings.CutPrefix(parts[5], "user/")
	if !isUser {
		return "", parts[5] == "root"
	}
	return path[strings.LastIndex(path, "/")+1:], false
}
