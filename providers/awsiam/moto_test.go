package awsiam

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

// world is one moto for all tests here; each takes users of its own.
type world struct {
	*moto.AWS
	account *Account
	users   atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{AWS: moto.Start(t)}
	w.User("worker", moto.Allow("iam:*"))
	w.Environment(t, w.AccessKey("worker"))
	w.account = &Account{UsageLag: inventory.Duration(time.Second)}
	require.Empty(t, w.account.Problems(), "the endpoint of the environment is on this host")
	t.Setenv("AWS_MAX_ATTEMPTS", "1") // so that faults cost no time
	_, err := w.account.Config(t.Context())
	require.NoError(t, err)
	t.Setenv("AWS_MAX_ATTEMPTS", "")
	return w
}

// user makes a user, and the issuer of its keys.
func (w *world) user() *issuer {
	name := fmt.Sprintf("payments-%d", w.users.Add(1))
	w.User(name, "")
	return &issuer{account: w.account, config: Config{Principal: name}}
}

// use makes a call with a key, as a consumer does.
func (w *world) use(t providertest.T, b secret.Bundle) error {
	id, _ := b.Field(defaultKeyIDField)
	value, _ := b.Field(defaultSecretField)
	c := w.Config(moto.Key{ID: string(id.Reveal()), Secret: string(value.Reveal())})
	c.RetryMaxAttempts = 1
	_, err := sts.NewFromConfig(c).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if errors.Is(awsaccount.Error("using", err), providers.ErrDenied) || id.Len() == 0 {
		return providers.ErrKeyRefused
	}
	return err
}

var actions = map[providertest.Op]string{
	providertest.OpList: "iam:ListAccessKeys", providertest.OpIdentify: "iam:ListAccessKeys", providertest.OpIssue: "iam:CreateAccessKey",
	providertest.OpDestroy: "iam:DeleteAccessKey", providertest.OpDisable: "iam:UpdateAccessKey", providertest.OpEnable: "iam:UpdateAccessKey",
	providertest.OpSelfTest: "sts:GetCallerIdentity",
}

func TestOnMoto(t *testing.T) {
	w := newWorld(t)
	t.Run("conformance", func(t *testing.T) {
		providertest.Issuer(t, providertest.IssuerSetup{Open: func(t providertest.T) providertest.IssuerWorld {
			i := w.user()
			return providertest.IssuerWorld{
				Issuer: i, Other: w.user(), Principal: i.config.Principal,
				Use: func(b secret.Bundle) error { return w.use(t, b) },
				Faults: providertest.Faults{
					LoseReply: func(op providertest.Op) { w.LoseReply(actions[op], 0, 1) },
					Throttle:  func(op providertest.Op) { w.Throttle(actions[op], 0, 1) },
					Hang:      func(op providertest.Op) func() { return w.Hang(actions[op]) },
				},
			}
		}})
	})
	for name, test := range map[string]func(t *testing.T, w *world){
		"a lost reply of CreateAccessKey is not repeated by the SDK":   noRepetition,
		"a new key that IAM does not know yet is refused, and no more": lateKey,
		"inactive keys count as slots":                                 inactiveCounts,
		"a session of STS is never a key to rotate":                    temporary,
		"the names of the fields can be chosen":                        fieldNames,
		"policies beyond the scopes are named":                         beyondScopes,
		"an administrator is refused, whatever the scopes say":         administrators,
		"the worker's own user is refused":                             itself,
		"the last use attests for one instance":                        attestation,
	} {
		t.Run(name, func(t *testing.T) { test(t, w) })
	}
}

func lateKey(t *testing.T, w *world) {
	i := w.user()
	w.NewKeysAreLate(2)
	defer w.NewKeysAreLate(0)
	issued, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
	require.NoError(t, err)
	for range 2 {
		require.ErrorIs(t, i.SelfTest(t.Context(), issued.Bundle), providers.ErrKeyRefused)
	}
	for range 3 {
		require.NoError(t, i.SelfTest(t.Context(), issued.Bundle))
	}
}

func noRepetition(t *testing.T, w *world) {
	i := w.user()
	i.account = &Account{} // with the SDK's own three attempts
	w.LoseReply("iam:CreateAccessKey", 0, 1)
	_, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
	require.Error(t, err)
	assert.Len(t, w.AccessKeys(i.config.Principal), 1, "one key, whose secret nobody knows")
}

func inactiveCounts(t *testing.T, w *world) {
	i := w.user()
	for range slots {
		issued, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
		require.NoError(t, err)
		require.NoError(t, i.Disable(t.Context(), key.Ref{KeyID: issued.Key.KeyID}))
	}
	_, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
	require.ErrorIs(t, err, providers.ErrSlotsFull)
	assert.Len(t, w.AccessKeys(i.config.Principal), slots)
}

func temporary(t *testing.T, w *world) {
	b := secret.NewBundle(map[string]secret.Value{defaultKeyIDField: secret.New([]byte("ASIAIOSFODNN7EXAMPLE")), defaultSecretField: secret.New([]byte("x"))})
	_, err := w.user().Identify(t.Context(), b)
	require.ErrorIs(t, err, providers.ErrDenied)
	require.ErrorContains(t, err, "temporary key of STS")
	assert.NotContains(t, err.Error(), "IOSFODNN7EXAMPLE")
}

func fieldNames(t *testing.T, w *world) {
	i := w.user()
	i.config.Fields = FieldNames{ID: "id", Key: "key"}
	issued, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
	require.NoError(t, err)
	assert.Equal(t, []string{"id", "key"}, issued.Bundle.Names())
	id, err := i.Identify(t.Context(), issued.Bundle)
	require.NoError(t, err)
	assert.Equal(t, issued.Key.KeyID, id)
	require.NoError(t, i.SelfTest(t.Context(), issued.Bundle))
}

// policy makes a managed policy and returns its ARN.
func (w *world) policy(t *testing.T, name, document string) string {
	t.Helper()
	out, err := w.IAM().CreatePolicy(t.Context(), &iam.CreatePolicyInput{PolicyName: &name, PolicyDocument: &document})
	require.NoError(t, err)
	return *out.Policy.Arn
}

// inEveryWay gives a user a policy in each way there is, and returns how they are called.
func (w *world) inEveryWay(t *testing.T, user, document string) []string {
	t.Helper()
	c, group := w.IAM(), user+"-group"
	own, shared := w.policy(t, user+"-own", document), w.policy(t, user+"-shared", document)
	_, err := c.AttachUserPolicy(t.Context(), &iam.AttachUserPolicyInput{UserName: &user, PolicyArn: &own})
	require.NoError(t, err)
	_, err = c.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: &user, PolicyName: aws.String("inline"), PolicyDocument: &document})
	require.NoError(t, err)
	_, err = c.CreateGroup(t.Context(), &iam.CreateGroupInput{GroupName: &group})
	require.NoError(t, err)
	_, err = c.AddUserToGroup(t.Context(), &iam.AddUserToGroupInput{GroupName: &group, UserName: &user})
	require.NoError(t, err)
	_, err = c.AttachGroupPolicy(t.Context(), &iam.AttachGroupPolicyInput{GroupName: &group, PolicyArn: &shared})
	require.NoError(t, err)
	_, err = c.PutGroupPolicy(t.Context(), &iam.PutGroupPolicyInput{GroupName: &group, PolicyName: aws.String("group-inline"), PolicyDocument: &document})
	require.NoError(t, err)
	return []string{own, "inline", shared, "group-inline"}
}

func beyondScopes(t *testing.T, w *world) {
	i := w.user()
	names := w.inEveryWay(t, i.config.Principal, moto.Allow("s3:GetObject"))
	objections, err := i.CheckRights(t.Context(), names)
	require.NoError(t, err)
	assert.Empty(t, objections)
	for at, name := range names {
		objections, err := i.CheckRights(t.Context(), append(append([]string{}, names[:at]...), names[at+1:]...))
		require.NoError(t, err)
		require.Len(t, objections, 1)
		assert.Contains(t, objections[0], "policies that scopes does not name: "+name)
	}
	objections, err = i.CheckRights(t.Context(), []string{i.config.Principal + "-own", "inline", i.config.Principal + "-shared", "group-inline"})
	require.NoError(t, err)
	assert.Empty(t, objections, "a managed policy may be named without its ARN")
}

func administrators(t *testing.T, w *world) {
	i := w.user()
	names := w.inEveryWay(t, i.config.Principal, moto.Allow("*"))
	objections, err := i.CheckRights(t.Context(), names)
	require.NoError(t, err)
	require.Len(t, objections, len(names))
	for _, o := range objections {
		assert.Contains(t, o, "is an administrator")
	}
}

func itself(t *testing.T, w *world) {
	for principal, problems := range map[string]int{"worker": 1, "Worker": 1, "worker-2": 0} { // IAM does not tell names apart by case
		i := &issuer{account: w.account, config: Config{Principal: principal}}
		objections, err := i.checkIdentity(t.Context())
		require.NoError(t, err)
		require.Len(t, objections, problems, principal)
		for _, o := range objections {
			assert.Contains(t, o, `the worker runs as user "worker" itself`)
		}
	}
	objections, err := (&issuer{account: w.account, config: Config{Principal: "worker"}}).CheckRights(t.Context(), []string{"worker"})
	require.NoError(t, err)
	assert.Contains(t, objections[0], `the worker runs as user "worker" itself`)
}

func attestation(t *testing.T, w *world) {
	i := w.user()
	a := &attestor{issuer: *i, now: time.Now}
	_, err := a.Attest(t.Context(), []string{"one"})
	require.ErrorContains(t, err, "no use of any key")
	_, err = a.Attest(t.Context(), []string{"one", "two"})
	require.ErrorIs(t, err, providers.ErrUnsupported)
	for range slots {
		issued, err := i.Issue(t.Context(), providers.IssueRequest{Token: "t"})
		require.NoError(t, err)
		before := time.Now().Truncate(time.Second) // the last use is told to the second
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			assert.NoError(c, w.use(t, issued.Bundle))
			got, err := a.Attest(t.Context(), []string{"one"})
			if assert.NoError(c, err) && assert.Len(c, got, 1) {
				assert.WithinRange(c, got[0].UsedAt, before, time.Now())
				assert.Equal(c, "one", got[0].Instance)
				assert.Equal(c, []string{issued.Key.KeyID}, got[0].Keys)
			}
		}, time.Minute, 200*time.Millisecond)
	}
}
