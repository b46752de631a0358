package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/workflows"
)

const (
	workerPolicy = "../docs/aws-worker-policy.json"
	secretName   = "sandbox/" + credential
)

// awsStage is a stage on moto: the worker has just the rights of the documented policy, and three consumers
// read the secret and sign a call four times a second each.
type awsStage struct {
	*stage
	aws      *moto.AWS
	identity moto.Key
}

func newAWSStage(t *testing.T, windows ...string) *awsStage {
	t.Helper()
	s := prepareAWS(t, windows...)
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	return s
}

// prepareAWS starts everything but the worker.
func prepareAWS(t *testing.T, windows ...string) *awsStage {
	t.Helper()
	return prepareAWSOn(onSharedServer(t), windows...)
}

func prepareAWSOn(where *stage, windows ...string) *awsStage {
	where.t.Helper()
	double := moto.Start(where.t)
	double.User("worker", documentedPolicy(where.t))
	double.User("demo", moto.Allow("*"))
	s := &awsStage{stage: where, aws: double, identity: double.AccessKey("worker")}
	s.variables["worker"], s.variables["sandbox"] = lines(double.Variables(s.identity)), lines(double.Variables(double.AccessKey("demo")))
	s.prepared(append([]string{"--aws", "--every", "250ms"}, windows...)...) // each call is moto's work
	return s
}

// documentedPolicy is that of the worker, for all resources: moto knows none.
func documentedPolicy(t *testing.T) string {
	t.Helper()
	policy, err := os.ReadFile(workerPolicy)
	require.NoError(t, err)
	return regexp.MustCompile(`"Resource": "[^"]*"`).ReplaceAllString(string(policy), `"Resource": "*"`)
}

func lines(variables map[string]string) []string {
	var list []string
	for name, value := range variables {
		list = append(list, name+"="+value)
	}
	return list
}

// key reads the secret as a consumer does.
func (s *awsStage) key(stage string) moto.Key {
	s.t.Helper()
	var k struct{ AccessKeyId, SecretAccessKey, Endpoint string } //nolint:revive // AWS's spelling
	require.NoError(s.t, json.Unmarshal([]byte(s.value(stage)), &k))
	assert.Equal(s.t, "https://payments.example.com", k.Endpoint, "other members of the secret stay")
	return moto.Key{ID: k.AccessKeyId, Secret: k.SecretAccessKey}
}

func (s *awsStage) value(stage string) string {
	s.t.Helper()
	out, err := s.aws.Secrets().GetSecretValue(s.t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String(secretName), VersionStage: &stage})
	require.NoError(s.t, err)
	return *out.SecretString
}

// current is the key in AWSCURRENT, for any goroutine. It is asked for by name: where moto is asked for none, it goes on
// with the version that was there first.
func (s *awsStage) current() (moto.Key, error) {
	out, err := s.aws.Secrets().GetSecretValue(s.t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String(secretName), VersionStage: aws.String("AWSCURRENT")})
	if err != nil {
		return moto.Key{}, err
	}
	var k struct{ AccessKeyId, SecretAccessKey string } //nolint:revive // AWS's spelling
	err = json.Unmarshal([]byte(*out.SecretString), &k)
	return moto.Key{ID: k.AccessKeyId, Secret: k.SecretAccessKey}, err
}

// use makes a call with a key, as a consumer does.
func (s *awsStage) use(k moto.Key) error {
	c := s.aws.Config(k)
	c.RetryMaxAttempts = 1
	_, err := sts.NewFromConfig(c).GetCallerIdentity(s.t.Context(), &sts.GetCallerIdentityInput{})
	return err
}

// rotated sees to the end of a rotation that began with the retiring key: the incoming key alone is left,
// in use everywhere, nobody was refused, and there were never more keys than slots.
func (s *awsStage) rotated(retiring moto.Key) {
	s.t.Helper()
	report := s.report()
	require.Equal(s.t, workflows.Completed, report.Outcome, report.Message)
	current := s.key("AWSCURRENT")
	assert.Equal(s.t, report.Incoming.KeyID, current.ID)
	assert.NotEqual(s.t, retiring.ID, current.ID)
	assert.Equal(s.t, map[string]string{current.ID: "Active"}, s.aws.AccessKeys(credential))
	assert.Equal(s.t, map[string][]string{report.Incoming.StoreVersion: {"AWSCURRENT"}}, s.aws.Stages(secretName))
	require.NoError(s.t, s.use(current))
	require.ErrorContains(s.t, s.use(retiring), "InvalidClientTokenId", "the control: a destroyed key is refused, by moto too")
	s.sound()
}

// sound is what must hold at every end.
func (s *awsStage) sound() {
	s.t.Helper()
	assert.LessOrEqual(s.t, s.aws.MostKeys(credential), 2)
	s.nobodyRefused()
	for _, c := range s.aws.Calls() {
		if c.Key == s.identity.ID {
			assert.NotContains(s.t, []string{"AccessDenied", "AccessDeniedException"}, c.Code, "the documented policy lacks %s", c.Action)
		}
	}
	workerCalls.add(s.aws.Actions(s.identity.ID))
}

func (s *awsStage) rotate() {
	s.t.Helper()
	out, code := s.starter("rotate", credential, "-f", s.place.Inventory)
	require.Zero(s.t, code, out)
}

func (s *awsStage) approve() workflows.Status {
	s.t.Helper()
	status := s.await(workflows.PhaseRevokeGate)
	out, code := s.starter("approve", credential, "--gate", "revoke", "--as", "ann")
	require.Zero(s.t, code, out)
	return status
}

// workerCalls are the actions of all workers in these tests.
var workerCalls calls

type calls struct {
	mu    sync.Mutex
	made  map[string]bool
	times int
}

func (c *calls) add(counts map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made = map[string]bool{}
	}
	c.times++
	for action := range counts {
		c.made[action] = true
	}
}

func TestAWS(t *testing.T) {
	t.Parallel()
	moto.Need(t)
	scenarios := map[string]func(t *testing.T){
		"routine":                      awsRoutine,
		"rolled back":                  awsRollback,
		"first key and adopted key":    awsFirstAndAdopted,
		"refusals":                     awsRefusals,
		"replies lost":                 awsRepliesLost,
		"throttled":                    awsThrottled,
		"secret deleted in the middle": awsSecretDeleted,
		"attested by last use":         awsByUsage,
	}
	t.Run("rotations", func(t *testing.T) {
		for name, test := range scenarios {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	if t.Failed() || workerCalls.times < len(scenarios) {
		return // not all of them ran to their end
	}
	// The policy is the least one: every action in it was needed.
	text, err := os.ReadFile(workerPolicy)
	require.NoError(t, err)
	var allowed []string
	for _, action := range regexp.MustCompile(`"((?:iam|secretsmanager|sts):[A-Za-z]+)"`).FindAllStringSubmatch(string(text), -1) {
		allowed = append(allowed, action[1])
	}
	delete(workerCalls.made, "sts:GetCallerIdentity") // needs no permission
	made := slices.Sorted(maps.Keys(workerCalls.made))
	slices.Sort(allowed)
	assert.Equal(t, made, allowed, "the calls that were made, and those that %s allows", workerPolicy)
	page, err := os.ReadFile("../docs/aws.md")
	require.NoError(t, err)
	for _, action := range allowed {
		_, name, _ := strings.Cut(action, ":")
		assert.Contains(t, string(page), "`"+name+"`", "docs/aws.md says what it is for")
	}
}

// A rollback while only the canary has the incoming key, by AWSPENDING, and one in the overlap.
func awsRollback(t *testing.T) {
	s := newAWSStage(t, "--wave-soak", "10s", "--overlap", "1m", "--quiet-window", "2s")
	retiring := s.key("AWSCURRENT")
	turnedBack := func() {
		t.Helper()
		report := s.report()
		require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
		assert.Equal(t, retiring.ID, s.key("AWSCURRENT").ID)
		assert.Equal(t, map[string]string{retiring.ID: "Active"}, s.aws.AccessKeys(credential))
		assert.Equal(t, map[string][]string{report.Retiring.StoreVersion: {"AWSCURRENT"}}, s.aws.Stages(secretName))
		for _, c := range s.now().Consumers {
			assert.Equal(t, retiring.ID, c.Key, "%s is back on the retiring key", c.Name)
		}
	}
	for _, phase := range []workflows.Phase{workflows.PhaseDeliver, workflows.PhaseOverlap} {
		s.rotate()
		s.awaitThat("the incoming key is in use", func(now workflows.Status) bool { return now.Phase == phase && !now.Until.IsZero() })
		out, code := s.starter("rollback", credential, "--reason", "errors at checkout", "--as", "ann")
		require.Zero(t, code, out)
		turnedBack()
	}
	// A key that fails its smoke test is never delivered, and yet the canary has read it.
	only := fmt.Sprintf(`if grep -q %s; then echo '{"ok":true}'; else echo '{"ok":false,"refused":true}'; fi`, retiring.ID)
	s.rewrite(s.place.Worker, "audit:", fmt.Sprintf("programs: {only: [/bin/sh, -c, %q]}\naudit:", only))
	s.rewrite(s.place.Inventory, "    health:\n", "    verify: [{type: exec, program: only}]\n    health:\n")
	s.restartWorker()
	s.rotate()
	s.awaitThat("the canary reads AWSPENDING", func(workflows.Status) bool { return s.now().Consumers[0].Key != retiring.ID })
	turnedBack()
	s.sound()
}

// A credential whose secret does not exist yet, and one whose key nobody ever stored.
func awsFirstAndAdopted(t *testing.T) {
	s := prepareAWS(t)
	text, err := os.ReadFile(s.place.Inventory)
	require.NoError(t, err)
	head, _, found := strings.Cut(string(text), "    consumers:\n")
	require.True(t, found)
	head = strings.ReplaceAll(head, secretName, "sandbox/payments-new")
	head = regexp.MustCompile(`(?s)    health:.*`).ReplaceAllString(head, "    noConsumers: true\n")
	head = regexp.MustCompile(`(?m)^    errorBudget:.*\n`).ReplaceAllString(head, "")
	head = strings.Replace(head, "principal: "+credential, "principal: payments-new", 1)
	head = strings.Replace(head, "scopes: ["+credential+"]", "scopes: [payments-new]", 1)
	s.rewrite(s.place.Worker, "principals: ["+credential+"]", "principals: [payments-new]")
	s.rewrite(s.place.Worker, "storePaths: ["+secretName+"]", "storePaths: [sandbox/payments-new]")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	s.aws.User("payments-new", moto.Allow("s3:GetObject"))
	keys := func() map[string]string { return s.aws.AccessKeys("payments-new") }

	require.NoError(t, os.WriteFile(s.place.Inventory, []byte(head), 0o600))
	s.rotate()
	first := s.report()
	require.Equal(t, workflows.Completed, first.Outcome, first.Message)
	assert.Equal(t, map[string]string{first.Incoming.KeyID: "Active"}, keys())
	assert.Equal(t, map[string][]string{first.Incoming.StoreVersion: {"AWSCURRENT"}}, s.aws.Stages("sandbox/payments-new"))

	// Now as if keyturn had never known it: the secret and the record of it are gone for good, the key is named in the inventory.
	for _, gone := range []string{"sandbox/payments-new", "sandbox/payments-new.keyturn"} {
		_, err = s.aws.Secrets().DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: aws.String(gone), ForceDeleteWithoutRecovery: aws.Bool(true)})
		require.NoError(t, err)
	}
	out, code := s.starter("plan", credential, "-f", s.place.Inventory)
	require.Equal(t, 3, code, out)
	assert.Contains(t, out, "is not ours: name it under adopt")
	require.NoError(t, os.WriteFile(s.place.Inventory, []byte(head+"    adopt: ["+first.Incoming.KeyID+"]\n"), 0o600))
	out, code = s.starter("plan", credential, "-f", s.place.Inventory)
	require.Zero(t, code, out)
	assert.Contains(t, out, "rollback is impossible")
	s.rotate()
	s.approve()
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	assert.Equal(t, first.Incoming.KeyID, report.Retiring.KeyID)
	assert.Equal(t, map[string]string{report.Incoming.KeyID: "Active"}, keys())
	s.sound()
}

// What Inspect refuses, one after the other; nothing is changed by any.
func awsRefusals(t *testing.T) {
	s := newAWSStage(t)
	retiring := s.key("AWSCURRENT")
	users, secrets, name := s.aws.IAM(), s.aws.Secrets(), aws.String(credential)
	refused := func(why string) {
		t.Helper()
		stages := s.aws.Stages(secretName)
		out, code := s.starter("plan", credential, "-f", s.place.Inventory)
		require.Equal(t, 3, code, out)
		assert.Contains(t, strings.Join(strings.Fields(out), " "), why)
		assert.Equal(t, stages, s.aws.Stages(secretName))
	}
	second := s.aws.AccessKey(credential)
	refused("the issuer allows 2 keys and has 2")
	refused(second.ID + " is not the current key, and no consumer states it")
	_, err := users.UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: name, AccessKeyId: &second.ID, Status: "Inactive"})
	require.NoError(t, err)
	refused("the issuer allows 2 keys and has 2")
	s.rotate()
	report := s.report()
	assert.Equal(t, workflows.Refused, report.Outcome)
	assert.Equal(t, map[string]string{retiring.ID: "Active", second.ID: "Inactive"}, s.aws.AccessKeys(credential), "somebody else's key is never touched")
	_, err = users.DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: name, AccessKeyId: &second.ID})
	require.NoError(t, err)

	admin, err := users.CreatePolicy(t.Context(), &iam.CreatePolicyInput{PolicyName: aws.String("everything"), PolicyDocument: aws.String(moto.Allow("*"))})
	require.NoError(t, err)
	_, err = users.CreateGroup(t.Context(), &iam.CreateGroupInput{GroupName: aws.String("ops")})
	require.NoError(t, err)
	_, err = users.AttachGroupPolicy(t.Context(), &iam.AttachGroupPolicyInput{GroupName: aws.String("ops"), PolicyArn: admin.Policy.Arn})
	require.NoError(t, err)
	_, err = users.PutGroupPolicy(t.Context(), &iam.PutGroupPolicyInput{GroupName: aws.String("ops"), PolicyName: aws.String("inline"), PolicyDocument: aws.String(moto.Allow("s3:*"))})
	require.NoError(t, err)
	_, err = users.AddUserToGroup(t.Context(), &iam.AddUserToGroupInput{GroupName: aws.String("ops"), UserName: name})
	require.NoError(t, err)
	refused("is an administrator")
	refused("policies that scopes does not name")
	_, err = users.RemoveUserFromGroup(t.Context(), &iam.RemoveUserFromGroupInput{GroupName: aws.String("ops"), UserName: name})
	require.NoError(t, err)

	value := s.value("AWSCURRENT")
	put := func(value string) {
		t.Helper()
		_, err := secrets.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: aws.String(secretName), SecretString: &value})
		require.NoError(t, err)
	}
	s.services.end(9) // they would follow
	put(strings.Replace(value, retiring.ID, "ASIAIOSFODNN7EXAMPLE", 1))
	refused("temporary key of STS")
	put("AKIA-in-plain-text")
	refused("no JSON object")
	put(value)
	_, err = secrets.RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{SecretId: aws.String(secretName), RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)}})
	require.NoError(t, err)
	refused("native rotation is on")
	workerCalls.add(s.aws.Actions(s.identity.ID))
}

// The reply of CreateAccessKey is lost three times: each leaves a key whose secret nobody knows. It is found
// by the mint intent, and destroyed before another is minted, so that the slots are never exceeded.
func awsRepliesLost(t *testing.T) {
	s := newAWSStage(t)
	retiring := s.key("AWSCURRENT")
	s.aws.LoseReply("iam:CreateAccessKey", 0, 3)
	s.aws.LoseReply("secretsmanager:PutSecretValue", 0, 4)
	s.aws.LoseReply("secretsmanager:UpdateSecretVersionStage", 0, 4)
	s.aws.LoseReply("iam:UpdateAccessKey", 0, 4)
	s.aws.LoseReply("iam:DeleteAccessKey", 0, 4)
	s.aws.LoseReply("secretsmanager:CreateSecret", 0, 4)
	s.rotate()
	s.approve()
	s.rotated(retiring)
	assert.Contains(t, s.trail(), "orphan.destroyed")
}

// Every kind of call is throttled more often than the SDK itself is patient.
func awsThrottled(t *testing.T) {
	s := newAWSStage(t)
	retiring := s.key("AWSCURRENT")
	s.aws.Throttle("iam:CreateAccessKey", 0, 1) // the SDK does not repeat that one
	for _, action := range []string{
		"iam:ListAccessKeys", "iam:GetAccessKeyLastUsed", "iam:UpdateAccessKey", "iam:DeleteAccessKey", "iam:ListUserPolicies",
		"secretsmanager:ListSecretVersionIds", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage", "secretsmanager:CreateSecret",
	} {
		s.aws.Throttle(action, 0, 4)
	}
	s.rotate()
	s.approve()
	s.rotated(retiring)
}

// The secret is deleted in the overlap. Nothing is destroyed, nobody is refused, and once it is restored the rollback, which
// has waited for that, ends.
func awsSecretDeleted(t *testing.T) {
	s := newAWSStage(t, "--overlap", "15s")
	retiring := s.key("AWSCURRENT")
	s.rotate()
	status := s.await(workflows.PhaseOverlap)
	_, err := s.aws.Secrets().DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: aws.String(secretName), RecoveryWindowInDays: aws.Int64(7)})
	require.NoError(t, err)
	s.awaitThat("the rollback waits for the secret", func(now workflows.Status) bool {
		return now.Phase == workflows.PhaseRollback && strings.Contains(now.WaitsFor, "scheduled for deletion: restore it")
	})
	assert.Equal(t, map[string]string{status.Retiring.KeyID: "Active", status.Incoming.KeyID: "Active"}, s.aws.AccessKeys(credential))

	_, err = s.aws.Secrets().RestoreSecret(t.Context(), &secretsmanager.RestoreSecretInput{SecretId: aws.String(secretName)})
	require.NoError(t, err)
	report := s.report()
	require.Equal(t, workflows.RolledBack, report.Outcome, report.Message)
	assert.Equal(t, map[string]string{status.Retiring.KeyID: "Active"}, s.aws.AccessKeys(credential))
	s.rotate()
	s.approve()
	s.rotated(retiring)
}

// A consumer with one instance attests by what IAM tells of its key's last use. The client is the test's own.
func awsByUsage(t *testing.T) {
	s := prepareAWS(t)
	retiring := s.key("AWSCURRENT")
	s.services.end(15)
	text, err := os.ReadFile(s.place.Inventory)
	require.NoError(t, err)
	head, _, _ := strings.Cut(string(text), "    consumers:\n")
	head = regexp.MustCompile(`(?s)    health:.*`).ReplaceAllString(head, "")
	head = regexp.MustCompile(`(?m)^    errorBudget:.*\n`).ReplaceAllString(head, "")
	require.NoError(t, os.WriteFile(s.place.Inventory, []byte(head+`    consumers:
      - name: checkout
        target: {type: awssecretsmanager}
        check: {type: exec, program: well}
        attestation: {type: awsiam, account: aws, principal: `+credential+`}
`), 0o600))
	s.rewrite(s.place.Worker, "audit:", "programs: {well: [\"/bin/sh\", \"-c\", \"cat >/dev/null; echo '{\\\"ok\\\":true}'\"]}\naudit:")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()

	ctx, stop := context.WithCancel(t.Context())
	var works errgroup.Group
	var sent atomic.Int64
	works.Go(func() error { // reads AWSCURRENT and signs a call each 50 ms
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		k := retiring
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
				if now, err := s.current(); err == nil { // else it goes on with the key that it has
					k = now
				}
				err := s.use(k)
				switch {
				case err == nil:
					sent.Add(1)
				case strings.Contains(err.Error(), "InvalidClientTokenId"):
					return err
				}
			}
		}
	})
	s.rotate()
	s.approve()
	report := s.report()
	require.Equal(t, workflows.Completed, report.Outcome, report.Message)
	comes(func() bool { return sent.Load() > 100 }, patience, 50*time.Millisecond)
	stop()
	require.NoError(t, works.Wait(), "none is refused")
	assert.Greater(t, sent.Load(), int64(100))
	require.ErrorContains(t, s.use(retiring), "InvalidClientTokenId")
	workerCalls.add(s.aws.Actions(s.identity.ID))
}
