package tests

import (
	"encoding/csv"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/gateway"
	"github.com/keyturn/keyturn/workflows"
)

const (
	scanPolicy   = "../docs/aws-scan-policy.json"
	doctorPolicy = "../docs/aws-doctor-policy.json"
)

// scan runs a scan and says of each key who looks after it, by principal and ID.
func (s *stage) scan(args ...string) (map[string]string, workflows.ScanReport) {
	s.t.Helper()
	out, code := s.starter(append([]string{"inventory", "scan", "-o", "json"}, args...)...)
	require.Zero(s.t, code, out)
	var report workflows.ScanReport
	require.NoError(s.t, json.Unmarshal([]byte(out), &report), out)
	seen := map[string]string{}
	for _, k := range report.Keys {
		seen[k.Principal+" "+k.KeyID] = strings.TrimSuffix(string(k.Custody)+", "+k.MarkText(), ", ")
	}
	return seen, report
}

// keyFile is the demo gateway's.
func (s *stage) keyFile() string {
	return filepath.Join(filepath.Dir(s.place.Audit), "gateway", "keys.json")
}

// oldKey gives the gateway a key that nobody declared.
func (s *stage) oldKey(principal, id string, created time.Time) {
	s.t.Helper()
	existing := gateway.ExistingKey{Principal: principal, KeyID: id, CreatedAt: created}
	require.NoError(s.t, gateway.AddKey(s.t.Context(), s.keyFile(), existing, secret.New([]byte("value-of-"+principal+"-"+id))))
}

func refOf(principal, id string) key.Ref { return key.Ref{Principal: principal, KeyID: id} }

// filledIn does what a person does with what a scan wrote: it fills in each TODO.
func filledIn(text string) string {
	for field, value := range map[string]string{
		`owner: ""`: "owner: payments@example.com", `purpose: ""`: "purpose: nightly settlement", `environment: ""`: "environment: sandbox",
		`from: \[\]`: "from: [owners]", `consumers: \[\]`: "noConsumers: true",
	} {
		text = regexp.MustCompile(field).ReplaceAllString(text, value)
	}
	n := 0
	return regexp.MustCompile(`store: {type: ""}`).ReplaceAllStringFunc(text, func(string) string {
		n++
		return `store: {type: file, account: vault-dir, path: found-` + string(rune('a'+n)) + `}`
	})
}

func TestScan(t *testing.T) {
	t.Parallel()
	s := prepare(t)
	const day = 24 * time.Hour
	s.rewrite(s.place.Worker, "principals: ["+credential+"]", "principals: ['payments-*', '"+credential+"']")
	s.rewrite(s.place.Worker, "storePaths: ["+credential+"]", "storePaths: ['found-*', '"+credential+"']")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	s.oldKey("payments-batch", "made-in-2024", time.Now().Add(-500*day))
	s.oldKey("payments-batch", "made-yesterday", time.Now().Add(-day))
	s.oldKey("payments-batch", "switched-off", time.Now().Add(-day))
	s.oldKey(credential, "of-a-stranger", time.Now().Add(-day))
	s.oldKey("finance", "out-of-bounds", time.Now().Add(-day))
	issuer, err := gateway.Descriptor().Issuer.Open(providers.Environment{}, &gateway.Account{KeyFile: s.keyFile(), Slots: 9}, &gateway.Config{Principal: "payments-batch"})
	require.NoError(t, err)
	require.NoError(t, issuer.(providers.Disabler).Disable(t.Context(), refOf("payments-batch", "switched-off")))
	forgotten, err := issuer.Issue(t.Context(), providers.IssueRequest{Token: "of a rotation"})
	require.NoError(t, err)
	before, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)

	seen, report := s.scan("-f", s.place.Inventory)
	want := map[string]string{
		credential + " " + byHand:               "managed",
		credential + " of-a-stranger":           "unmanaged",
		"payments-batch made-in-2024":           "unmanaged, over-age",
		"payments-batch made-yesterday":         "unmanaged",
		"payments-batch switched-off":           "unmanaged, disabled-alive",
		"payments-batch " + forgotten.Key.KeyID: "orphaned",
	}
	for name := range seen {
		if strings.HasPrefix(name, credential+" ") && !strings.Contains(name, "stranger") {
			assert.Contains(t, seen[name], "managed")
			delete(want, credential+" "+byHand)
			want[name] = seen[name]
		}
	}
	assert.Equal(t, want, seen)
	assert.Equal(t, 1, report.Accounts[0].OutOfBounds)
	after, err := os.ReadFile(s.keyFile())
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after), "it proposes, and never touches")

	out, code := s.starter("inventory", "scan", "-f", s.place.Inventory)
	require.Zero(t, code, out)
	assert.Contains(t, out, "1 principal of account")
	assert.Contains(t, out, "declare it (inventory scan --emit")
	assert.NotContains(t, out, "finance")
	out, code = s.starter("inventory", "scan", "-f", s.place.Inventory, "-o", "csv")
	require.Zero(t, code, out)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	require.NoError(t, err)
	assert.Len(t, rows, 1+len(seen))

	// What it writes lacks what only a person knows, says so, and then is an inventory.
	file := filepath.Join(s.folder, "found.yaml")
	out, code = s.starter("inventory", "scan", "-f", s.place.Inventory, "--emit", file)
	require.Zero(t, code, out)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(text), "\n#   "+credential+": 1 key\n")
	assert.Contains(t, string(text), "\n#   payments-batch: 1 key\n", "a disabled key is nobody's to rotate, and not silently left out")
	out, code = s.starter("validate", "-f", file)
	assert.Equal(t, 2, code, out)
	for _, field := range []string{"owner", "purpose", "store.type", "consumers", "approvals.revoke.from"} {
		assert.Contains(t, out, field)
	}
	require.NoError(t, os.WriteFile(file, []byte(filledIn(string(text))), 0o600))
	out, code = s.starter("validate", "-f", file)
	assert.Zero(t, code, out)
	out, code = s.starter("inventory", "scan", "-f", s.place.Inventory, "--emit", file)
	assert.Equal(t, 2, code, out)
	assert.Contains(t, out, "exists already")

	// With the new inventory its keys are looked after.
	seen, _ = s.scan("-f", file)
	assert.Equal(t, "managed", seen["payments-batch "+forgotten.Key.KeyID])

	out, code = s.starter("inventory", "scan", "--account", "nowhere")
	assert.Equal(t, 1, code, out)
	assert.Contains(t, out, "no such account")
	out, code = s.starter("plan", credential, "-f", s.place.Inventory, "-o", "csv")
	assert.Equal(t, 2, code, out)
}

// documented is a policy of docs for all resources: moto knows none.
func documented(t *testing.T, file string) string {
	t.Helper()
	policy, err := os.ReadFile(file)
	require.NoError(t, err)
	return regexp.MustCompile(`"Resource": "[^"]*"`).ReplaceAllString(string(policy), `"Resource": "*"`)
}

// actionsOf are those that a policy of docs allows.
func actionsOf(t *testing.T, file string) []string {
	t.Helper()
	var actions []string
	for _, found := range regexp.MustCompile(`"((?:iam|secretsmanager|sts):[A-Za-z]+)"`).FindAllStringSubmatch(documented(t, file), -1) {
		actions = append(actions, found[1])
	}
	slices.Sort(actions)
	return slices.Compact(actions)
}

// A scan of IAM, with just the rights of the two documented policies; without the second it says what it lacks.
func TestScanOfAWS(t *testing.T) {
	t.Parallel()
	moto.Need(t)
	s := prepareAWS(t)
	s.services.end(15)
	s.rewrite(s.place.Worker, "principals: ["+credential+"]", "principals: ['payments-*']")
	s.flags = []string{"--allow-unsigned"}
	s.startWorker()
	current := s.key("AWSCURRENT")
	s.aws.User("payments-batch", "")
	s.aws.User("payments-empty", "")
	s.aws.User("finance", "")
	batch, off, finance := s.aws.AccessKey("payments-batch"), s.aws.AccessKey("payments-batch"), s.aws.AccessKey("finance")
	_, err := s.aws.IAM().UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: aws.String("payments-batch"), AccessKeyId: &off.ID, Status: "Inactive"})
	require.NoError(t, err)

	out, code := s.starter("inventory", "scan", "-f", s.place.Inventory)
	assert.Equal(t, 1, code, out)
	assert.Contains(t, out, "account aws could not be scanned to its end")
	assert.Contains(t, out, "ListUsers")

	_, err = s.aws.IAM().PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("worker"), PolicyName: aws.String("scan"), PolicyDocument: aws.String(documented(t, scanPolicy))})
	require.NoError(t, err)
	var seen map[string]string
	var report workflows.ScanReport
	want := map[string]string{
		credential + " " + current.ID: "managed", "payments-batch " + batch.ID: "unmanaged, over-age", "payments-batch " + off.ID: "unmanaged, disabled-alive, over-age",
	}
	comes(func() bool {
		seen, report = s.scan("-f", s.place.Inventory, "--max-age", "1s")
		return maps.Equal(want, seen)
	}, patience, time.Second)
	assert.Equal(t, want, seen, "a second later they are older than that")
	assert.NotContains(t, seen, "finance "+finance.ID)
	assert.Equal(t, 4, report.Accounts[0].OutOfBounds, "finance, and those of the stage itself")

	// The rights that it used beyond those of a rotation are those that are documented.
	var beyond []string
	rotation := actionsOf(t, workerPolicy)
	for action := range s.aws.Actions(s.identity.ID) {
		if !slices.Contains(rotation, action) && action != "sts:GetCallerIdentity" {
			beyond = append(beyond, action)
		}
	}
	allowed := slices.DeleteFunc(actionsOf(t, scanPolicy), func(a string) bool { return slices.Contains(rotation, a) })
	assert.Equal(t, allowed, beyond, "the calls that were made, and those that %s allows", scanPolicy)

	out, code = s.starter("inventory", "scan", "-f", s.place.Inventory, "--emit", "-")
	require.Zero(t, code, out)
	assert.Contains(t, out, batch.ID)
	assert.NotContains(t, out, off.ID)
	file := filepath.Join(s.folder, "found.yaml")
	text := strings.ReplaceAll(filledIn(out), "type: file, account: vault-dir", "type: awssecretsmanager, account: secrets")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	out, code = s.starter("validate", "-f", file)
	assert.Zero(t, code, out)
}
