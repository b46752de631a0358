package awssecretsmanager

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

// world is one moto for all tests here; each takes secrets of its own.
type world struct {
	*moto.AWS
	account *awsaccount.Account
	secrets atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{AWS: moto.Start(t)}
	w.User("worker", moto.Allow("secretsmanager:*"))
	w.Environment(t, w.AccessKey("worker"))
	w.account = new(awsaccount.Account)
	t.Setenv("AWS_MAX_ATTEMPTS", "1") // one standard variable, so that faults cost no time
	_, err := w.account.Config(t.Context())
	require.NoError(t, err)
	t.Setenv("AWS_MAX_ATTEMPTS", "")
	return w
}

// open opens a secret as a worker of its own.
func (w *world) open(name string) *store {
	return &store{account: w.account, name: name, records: new(records)}
}

func (w *world) name() string { return fmt.Sprintf("payments/api-%d", w.secrets.Add(1)) }

var actions = map[providertest.Op]string{
	providertest.OpVersions: "ListSecretVersionIds", providertest.OpRead: "GetSecretValue", providertest.OpReadLabel: "GetSecretValue",
	providertest.OpStage: "PutSecretValue", providertest.OpPromote: "UpdateSecretVersionStage", providertest.OpPrune: "UpdateSecretVersionStage",
	providertest.OpMetadata: "DescribeSecret", providertest.OpPutMetadata: "UpdateSecretVersionStage",
}

func action(op providertest.Op) string { return "secretsmanager:" + actions[op] }

func TestOnMoto(t *testing.T) {
	w := newWorld(t)
	t.Run("conformance", func(t *testing.T) {
		providertest.Store(t, providertest.StoreSetup{ForgetsUnlabelled: true, Open: func(providertest.T) providertest.StoreWorld {
			name := w.name()
			return providertest.StoreWorld{
				Store: w.open(name), Other: w.open(w.name()), Reopen: func() providers.Store { return w.open(name) },
				Faults: providertest.Faults{
					LoseReply: func(op providertest.Op) { w.LoseReply(action(op), 0, 1) },
					Throttle:  func(op providertest.Op) { w.Throttle(action(op), 0, 1) },
					Hang:      func(op providertest.Op) func() { return w.Hang(action(op)) },
				},
			}
		}})
	})
	for name, test := range map[string]func(t *testing.T, w *world){
		"a lost reply is got over by the SDK alone":                          lostOnce,
		"the first version of a secret is not CURRENT before it is promoted": firstVersion,
		"an empty secret that exists is filled":                              emptySecret,
		"members of other types stay as they are":                            otherTypes,
		"a value that is no JSON object is refused":                          noObject,
		"a secret of more than 64 KiB is refused before it is sent":          tooLarge,
		"a secret with too many versions is waited for":                      tooMany,
		"a secret with native rotation is refused":                           nativeRotation,
		"a secret that is about to be deleted is refused until it is back":   deleted,
		"metadata that was kept in tags is read until it is written":         tagged,
		"damaged metadata is neither read nor overwritten":                   damaged,
		"metadata that does not fit leaves what was there":                   growing,
		"looking costs a description, and a value is read once":              looking,
		"an empty companion that exists is filled":                           emptyCompanion,
		"a companion that is about to be deleted is refused":                 deletedCompanion,
		"AWS moves PREVIOUS along and leaves PENDING":                        facts,
		"a pending version without a value is not staged":                    hollow,
		"no label is taken for moved that is not":                            swallowed,
		"tokens are the same in whatever case they come back":                shouted,
	} {
		t.Run(name, func(t *testing.T) { test(t, w) })
	}
}

const tokenA, tokenB = "6ba7b810-9dad-51d1-80b4-00c04fd430c8", "6ba7b811-9dad-51d1-80b4-00c04fd430c8" //nolint:gosec // they open nothing

func keyOf(id string) secret.Bundle {
	return secret.NewBundle(map[string]secret.Value{"AccessKeyId": secret.New([]byte(id)), "SecretAccessKey": secret.New([]byte("secret-of-" + id))})
}

func (w *world) put(t *testing.T, name, value string) {
	t.Helper()
	_, err := w.Secrets().CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: &value})
	require.NoError(t, err)
}

func (w *world) value(t *testing.T, name, stage string) string {
	t.Helper()
	out, err := w.Secrets().GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &name, VersionStage: &stage})
	require.NoError(t, err)
	return *out.SecretString
}

func lostOnce(t *testing.T, w *world) {
	name := w.name()
	s := &store{account: new(awsaccount.Account), name: name} // with the SDK's own three attempts
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x"}`)
	before, err := s.Versions(t.Context())
	require.NoError(t, err)
	w.LoseReply("secretsmanager:PutSecretValue", 0, 1)
	_, err = s.Stage(t.Context(), tokenA, keyOf("new"))
	require.NoError(t, err)
	w.LoseReply("secretsmanager:UpdateSecretVersionStage", 0, 1)
	require.NoError(t, s.Promote(t.Context(), before[0].ID, tokenA))
	assert.Equal(t, map[string][]string{before[0].ID: {awsPrevious}, tokenA: {awsCurrent}}, w.Stages(name))
	w.LoseReply("secretsmanager:UpdateSecretVersionStage", 0, 1)
	require.NoError(t, s.Prune(t.Context(), before[0].ID))
	assert.Equal(t, map[string][]string{tokenA: {awsCurrent}}, w.Stages(name))
}

func firstVersion(t *testing.T, w *world) {
	name := w.name()
	s := w.open(name)
	_, err := s.Stage(t.Context(), tokenA, keyOf("first"))
	require.NoError(t, err)
	assert.JSONEq(t, `{}`, w.value(t, name, awsCurrent), "a consumer finds an empty object")
	require.NoError(t, s.Promote(t.Context(), "", tokenA))
	assert.Equal(t, map[string][]string{tokenA: {awsCurrent}}, w.Stages(name), "nothing is left of the placeholder")
	assert.JSONEq(t, `{"AccessKeyId":"first","SecretAccessKey":"secret-of-first"}`, w.value(t, name, awsCurrent))
}

func emptySecret(t *testing.T, w *world) {
	name := w.name()
	_, err := w.Secrets().CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name})
	require.NoError(t, err)
	s := w.open(name)
	versions, err := s.Versions(t.Context())
	require.NoError(t, err)
	assert.Empty(t, versions)
	_, err = s.Stage(t.Context(), tokenA, keyOf("first"))
	require.NoError(t, err)
	_, err = s.ReadLabel(t.Context(), key.Current)
	require.ErrorIs(t, err, providers.ErrNotFound)
	require.NoError(t, s.Promote(t.Context(), "", tokenA))
	assert.Equal(t, map[string][]string{tokenA: {awsCurrent}}, w.Stages(name))
}

func otherTypes(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x","port":12345678901234567890,"tls":{"verify":true},"note":null,"host":"h"}`)
	s := w.open(name)
	_, err := s.Stage(t.Context(), tokenA, keyOf("new"))
	require.NoError(t, err)
	got := w.value(t, name, awsPending)
	assert.JSONEq(t, `{"AccessKeyId":"new","SecretAccessKey":"secret-of-new","port":12345678901234567890,"tls":{"verify":true},"note":null,"host":"h"}`, got)
	assert.Contains(t, got, `"port":12345678901234567890`, "to the last digit")
	b, err := s.ReadLabel(t.Context(), key.Pending)
	require.NoError(t, err)
	port, _ := b.Field("port")
	assert.Equal(t, "12345678901234567890", string(port.Reveal()))
}

func noObject(t *testing.T, w *world) {
	for _, value := range []string{"plain-secret-text", `"plain-secret-text"`, `["plain-secret-text"]`, "null"} {
		name := w.name()
		w.put(t, name, value)
		s := w.open(name)
		_, err := s.ReadLabel(t.Context(), "")
		require.ErrorIs(t, err, providers.ErrInvalid, value)
		require.ErrorContains(t, err, "no JSON object")
		assert.NotContains(t, err.Error(), "plain-secret")
		_, err = s.Stage(t.Context(), tokenA, keyOf("new"))
		require.ErrorIs(t, err, providers.ErrInvalid, value)
		assert.Equal(t, value, w.value(t, name, awsCurrent))
	}
}

func tooLarge(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"foreign":"`+strings.Repeat("x", maxContent-60)+`"}`)
	_, err := w.open(name).Stage(t.Context(), tokenA, keyOf("new"))
	require.ErrorIs(t, err, providers.ErrInvalid)
	require.ErrorContains(t, err, "65536")
}

// AWS keeps about a hundred versions that are younger than a day. moto has no such quota.
func tooMany(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x"}`)
	s := w.open(name)
	s.putOver(t, large(1))
	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	stages := w.Stages(name)
	for doing, put := range map[string]func() error{
		"staging": func() error {
			_, err := s.Stage(t.Context(), tokenA, keyOf("new"))
			return err
		},
		"writing metadata": func() error {
			_, err := s.PutMetadata(t.Context(), m)
			return err
		},
	} {
		w.Refuse("secretsmanager:PutSecretValue", "LimitExceededException", 0, 1)
		err := put()
		require.ErrorIs(t, err, providers.ErrThrottled, doing)
		require.NotErrorIs(t, err, providers.ErrInvalid, "it passes")
		require.ErrorContains(t, err, "as many versions as AWS keeps")
		assert.Equal(t, stages, w.Stages(name), doing)
		s.keeps(t, large(1))
		require.NoError(t, put(), "%s goes on when there is room", doing)
		stages = w.Stages(name)
	}
}

func nativeRotation(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x"}`)
	_, err := w.Secrets().RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: &name, RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
	})
	require.NoError(t, err)
	w.refuses(t, name, "native rotation is on")
}

// refuses asserts that nothing is done to a secret, and why.
func (w *world) refuses(t *testing.T, name, why string) {
	t.Helper()
	s := w.open(name)
	_, versions := s.Versions(t.Context())
	_, staging := s.Stage(t.Context(), tokenB, keyOf("new"))
	_, reading := s.Metadata(t.Context())
	_, writing := s.PutMetadata(t.Context(), key.Metadata{Generation: 1})
	for doing, err := range map[string]error{
		"listing": versions, "staging": staging, "promoting": s.Promote(t.Context(), "", tokenB), "pruning": s.Prune(t.Context(), tokenB),
		"reading metadata": reading, "writing metadata": writing,
	} {
		require.ErrorIs(t, err, providers.ErrDenied, doing)
		require.ErrorContains(t, err, why, doing)
	}
}

func deleted(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old","SecretAccessKey":"x"}`)
	_, err := w.Secrets().DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &name, RecoveryWindowInDays: aws.Int64(7)})
	require.NoError(t, err)
	w.refuses(t, name, "scheduled for deletion")
	_, err = w.Secrets().RestoreSecret(t.Context(), &secretsmanager.RestoreSecretInput{SecretId: &name})
	require.NoError(t, err)
	_, err = w.open(name).Stage(t.Context(), tokenA, keyOf("new"))
	require.NoError(t, err)
}

// putOver writes metadata over what is there.
func (s *store) putOver(t *testing.T, m key.Metadata) {
	t.Helper()
	before, err := s.Metadata(t.Context())
	require.NoError(t, err)
	m.Revision = before.Revision
	_, err = s.PutMetadata(t.Context(), m)
	require.NoError(t, err)
}

// keeps asserts what the metadata is, but for its revision.
func (s *store) keeps(t *testing.T, want key.Metadata) {
	t.Helper()
	got, err := s.Metadata(t.Context())
	require.NoError(t, err)
	got.Revision = ""
	assert.Equal(t, want, got)
}

func tagged(t *testing.T, w *world) {
	name := w.name()
	tags, err := encode(large(30))
	require.NoError(t, err)
	_, err = w.Secrets().CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: &name, SecretString: aws.String(`{}`), Tags: append(tags, types.Tag{Key: aws.String("team"), Value: aws.String("payments")}),
	})
	require.NoError(t, err)
	s := w.open(name)
	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	assert.Equal(t, large(30), m, "without a revision")
	m.Generation = 8
	_, err = s.PutMetadata(t.Context(), m)
	require.NoError(t, err)
	s.keeps(t, m)
	_, err = s.PutMetadata(t.Context(), large(30))
	require.ErrorIs(t, err, providers.ErrConflict, "what was read out of the tags is the past")
	out, err := w.Secrets().DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &name})
	require.NoError(t, err)
	assert.Len(t, out.Tags, len(tags)+1, "no tag is touched")
}

// large is metadata of some length.
func large(debts int) key.Metadata {
	m := key.Metadata{Generation: 7}
	for i := range debts {
		m.Debt = append(m.Debt, key.Debt{Kind: "retired-key-alive", About: fmt.Sprintf("AKIA%016x", i*7919+1), Since: time.Unix(1700000000+int64(i)*977, 0).UTC()})
	}
	return m
}

func damaged(t *testing.T, w *world) {
	name := w.name()
	s := w.open(name)
	s.putOver(t, large(2))
	before, err := s.Metadata(t.Context())
	require.NoError(t, err)
	// Somebody edits the companion.
	edited := w.open(name + companion)
	c, err := edited.client(t.Context())
	require.NoError(t, err)
	_, err = edited.put(t.Context(), c, tokenA, []byte(`{"generation":7,"more":1}`))
	require.NoError(t, err)
	require.NoError(t, edited.move(t.Context(), c, awsCurrent, string(before.Revision), tokenA))
	_, err = s.Metadata(t.Context())
	require.ErrorIs(t, err, ErrDamaged)
	_, err = s.PutMetadata(t.Context(), before)
	require.ErrorIs(t, err, providers.ErrConflict)
	assert.JSONEq(t, `{"generation":7,"more":1}`, w.value(t, edited.name, awsCurrent))

	byTags := w.name()
	_, err = w.Secrets().CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: &byTags, SecretString: aws.String(`{}`), Tags: []types.Tag{{Key: aws.String("keyturn:1"), Value: aws.String("AAAA")}},
	})
	require.NoError(t, err)
	s = w.open(byTags)
	_, err = s.Metadata(t.Context())
	require.ErrorIs(t, err, ErrDamaged)
	_, err = s.PutMetadata(t.Context(), large(2))
	require.ErrorIs(t, err, ErrDamaged)
}

func growing(t *testing.T, w *world) {
	name := w.name()
	s := w.open(name)
	for _, n := range []int{0, 40, 3, 80, 1} {
		s.putOver(t, large(n))
		s.keeps(t, large(n))
	}
	assert.Len(t, w.Stages(name+companion), 2, "the record and the one before it")
	tooMuch := large(2000)
	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	tooMuch.Revision = m.Revision
	_, err = s.PutMetadata(t.Context(), tooMuch)
	require.ErrorIs(t, err, providers.ErrInvalid)
	s.keeps(t, large(1))
}

func looking(t *testing.T, w *world) {
	name := w.name()
	writer, reader := w.open(name), w.open(name)
	counted := func(do func()) (looks, reads int) {
		before := len(w.Calls())
		do()
		for _, c := range w.Calls()[before:] {
			switch c.Action {
			case "secretsmanager:DescribeSecret":
				looks++
			case "secretsmanager:GetSecretValue":
				reads++
			default:
				assert.Fail(t, "looking calls "+c.Action)
			}
		}
		return looks, reads
	}
	for n := range 2 {
		writer.putOver(t, large(n))
		looks, reads := counted(func() {
			for range 3 {
				writer.keeps(t, large(n))
				reader.keeps(t, large(n))
			}
		})
		assert.Equal(t, 6, looks)
		assert.Equal(t, 1, reads, "who wrote it knows it, and the other one reads it once")
	}
}

func emptyCompanion(t *testing.T, w *world) {
	name := w.name()
	_, err := w.Secrets().CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(name + companion)})
	require.NoError(t, err)
	s := w.open(name)
	s.keeps(t, key.Metadata{})
	s.putOver(t, large(2))
	s.keeps(t, large(2))
}

func deletedCompanion(t *testing.T, w *world) {
	name := w.name()
	s := w.open(name)
	s.putOver(t, large(1))
	m, err := s.Metadata(t.Context())
	require.NoError(t, err)
	_, err = w.Secrets().DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: aws.String(name + companion), RecoveryWindowInDays: aws.Int64(7)})
	require.NoError(t, err)
	_, err = s.Metadata(t.Context())
	require.ErrorIs(t, err, providers.ErrDenied)
	_, err = s.PutMetadata(t.Context(), m)
	require.ErrorIs(t, err, providers.ErrDenied)
	require.ErrorContains(t, err, "scheduled for deletion")
}

// facts are those of Secrets Manager that this package stands on, as far as moto has them.
func facts(t *testing.T, w *world) {
	name := w.name()
	w.put(t, name, `{"AccessKeyId":"old"}`)
	c := w.Secrets()
	versions := func() map[string][]string { return w.Stages(name) }
	var first string
	for id := range versions() {
		first = id
	}
	_, err := c.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &name, ClientRequestToken: aws.String(tokenA), SecretString: aws.String("{}"), VersionStages: []string{awsPending}})
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{first: {awsCurrent}, tokenA: {awsPending}}, versions(), "a named stage moves nothing else")
	move := func(from, to *string) error {
		_, err := c.UpdateSecretVersionStage(t.Context(), &secretsmanager.UpdateSecretVersionStageInput{SecretId: &name, VersionStage: aws.String(awsCurrent), RemoveFromVersionId: from, MoveToVersionId: to})
		return err
	}
	require.Error(t, move(nil, aws.String(tokenA)), "without naming who has it, nothing moves")
	require.Error(t, move(aws.String(tokenA), aws.String(tokenA)), "nor when somebody else has it: a compare-and-swap")
	require.NoError(t, move(&first, aws.String(tokenA)))
	got := versions()
	assert.Equal(t, []string{awsPrevious}, got[first])
	assert.ElementsMatch(t, []string{awsCurrent, awsPending}, got[tokenA], "AWSPENDING stays until it is removed")
	_, err = c.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &name, ClientRequestToken: aws.String(tokenB), SecretString: aws.String("{}")})
	require.NoError(t, err)
	assert.Equal(t, []string{awsCurrent}, versions()[tokenB], "without a stage AWSCURRENT moves at once")
}
