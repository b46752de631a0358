package inventory_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers/all"
)

var real = all.Catalog(all.Descriptors()...)

// base is a small inventory that is fine. Tests change one thing of it.
const base = `apiVersion: keyturn/v1
inventory: payments
policies:
  normal:
    risk: standard
    approvals: {revoke: {from: [owners]}}
credentials:
  - name: payments-api
    owner: payments@example.com
    purpose: charges
    environment: production
    labels: {team: payments}
    policy: normal
    issuer: {type: gateway, account: edge, principal: payments-api}
    store: {type: file, account: vault, path: payments-api}
    consumers:
      - name: canary
        wave: canary
        target: {type: file, path: /run/keys/canary/key}
        check: {type: http, url: "http://127.0.0.1:8081/healthz"}
        attestation: {type: http, url: "http://127.0.0.1:8081/keyturn"}
      - name: checkout
        instances: [a, b]
        target: {type: file, path: "/run/keys/{instance}/key"}
        check: {type: http, url: "http://127.0.0.1:8082/healthz"}
        attestation: {type: http, url: "http://127.0.0.1:8082/{instance}"}
`

// second is a further credential.
const second = `  - name: second
    owner: payments@example.com
    purpose: charges
    environment: production
    policy: normal
    issuer: {type: gateway, account: edge, principal: second}
    store: {type: file, account: vault, path: second}
    noConsumers: true
`

func load(text string) (*inventory.Inventory, error) {
	return inventory.Load("inventory.yaml", []byte(text), real)
}

func TestTheBaseIsFine(t *testing.T) {
	t.Parallel()
	_, err := load(base + second)
	require.NoError(t, err)
}

func TestTheExampleIsFine(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../inventory.example.yaml")
	require.NoError(t, err)
	inv, err := load(string(data))
	require.NoError(t, err)
	assert.Len(t, inv.Credentials, 3)
	assert.Equal(t, "critical", inv.Credentials[1].Policy, "chosen by risk")
	assert.Equal(t, map[string]string{"team": "payments", "tier": "1"}, inv.Credentials[1].Labels, "labels of the defaults are kept")
}

func TestWhatAnInventoryMayNotHave(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for name, c := range map[string]struct{ old, new, want string }{
		"another version":                     {"keyturn/v1", "keyturn/v2", "apiVersion is \"keyturn/v2\"; write keyturn/v1"},
		"an unknown field":                    {"purpose:", "porpose:", "credentials[0].porpose is not a known field; did you mean purpose?"},
		"a field of another provider":         {"principal: payments-api}", "principal: payments-api, path: x}", "credentials[0].issuer.path is not a known field"},
		"a repeated key":                      {"    purpose: charges\n", "    purpose: charges\n    purpose: more\n", "inventory.yaml:11:5: credentials[0].purpose is given twice, first in line 10"},
		"a wrong type":                        {"purpose: charges", "purpose: [charges]", "credentials[0].purpose is a list; write text"},
		"a duration without unit":             {"    policy: normal\n", "    policy: normal\n    overlap: \"10\"\n", "credentials[0].overlap is not a duration: \"10\"; write numbers with units"},
		"a duration as a number":              {"    policy: normal\n", "    policy: normal\n    overlap: 10\n", "credentials[0].overlap is a number; write text, such as 90d or 12h"},
		"a duration that overflows":           {"    policy: normal\n", "    policy: normal\n    overlap: 200000d\n", "credentials[0].overlap is not a duration: \"200000d\" is longer than 3650d; write a shorter one"},
		"a negative duration":                 {"    policy: normal\n", "    policy: normal\n    overlap: -1h\n", "credentials[0].overlap is not a duration"},
		"bytes that are not UTF-8":            {"purpose: charges", "purpose: \xff", "inventory.yaml:10:14: is not UTF-8"},
		"a request that nobody lives to see":  {"    policy: normal\n", "    policy: normal\n    approvals: {revoke: {from: [owners], requestExpires: 91d}}\n", "credentials[0].approvals.revoke.requestExpires is 91d; write a duration from 0s to 90d"},
		"an approval for ever":                {"    policy: normal\n", "    policy: normal\n    approvals: {revoke: {from: [owners], approvalExpires: 91d}}\n", "credentials[0].approvals.revoke.approvalExpires is 91d; write a duration from 0s to 90d"},
		"a budget of months":                  {"    policy: normal\n", "    policy: normal\n    errorBudget: {window: 8d}\n", "credentials[0].errorBudget.window is 8d; write a duration from 1s to 7d"},
		"a hold of years":                     {"    policy: normal\n", "    policy: normal\n    errorBudget: {maxHold: 91d}\n", "credentials[0].errorBudget.maxHold is 91d; write a duration from 1s to 90d"},
		"a jitter of weeks":                   {"    policy: normal\n", "    policy: normal\n    schedule: {at: \"02:00\", jitter: 8d}\n", "credentials[0].schedule.jitter is 8d; write a duration from 0s to 7d"},
		"a window of weeks":                   {"    policy: normal\n", "    policy: normal\n    schedule: {at: \"02:00\", window: 8d}\n", "credentials[0].schedule.window is 8d; write a duration from 0s to 7d"},
		"a purpose that reads otherwise":      {"purpose: charges", "purpose: \u202echarges", "inventory.yaml:10:14: has a character that nobody sees, U+202E; remove it"},
		"a budget that was forgotten":         {"    policy: normal\n", "    policy: normal\n    errorBudget:\n", "credentials[0].errorBudget is empty; write a mapping"},
		"a path in a credential's name":       {"name: payments-api", "name: ../payments", "credentials[0].name is no name; write up to 63"},
		"two dots in a name":                  {"name: payments-api", "name: a..b", "credentials[0].name is no name"},
		"a control character in a name":       {"name: payments-api", `name: "a\nb"`, "credentials[0].name is no name"},
		"a bell in a name":                    {"name: payments-api", `name: "a\u0007b"`, "credentials[0].name has a control character"},
		"a capital in a name":                 {"name: payments-api", "name: Payments", "credentials[0].name is no name"},
		"a path in the inventory's name":      {"inventory: payments", "inventory: a/b", "inventory is no name"},
		"a path in a consumer's name":         {"name: canary\n", "name: a/b\n", "credentials[0].consumers[0].name is no name"},
		"a path in an instance's name":        {"[a, b]", "[../a, b]", "credentials[0].consumers[1].instances[0] is no name"},
		"a path in a policy's name":           {"policy: normal", "policy: ../normal", "credentials[0].policy names policy \"../normal\", which is not there"},
		"a path that leaves the store":        {"path: payments-api", "path: ../payments-api", "credentials[0].store.path"},
		"a path that leaves a target's":       {"/run/keys/canary/key", "/run/keys/../../etc/passwd", "credentials[0].consumers[0].target.path"},
		"a name too long":                     {"name: payments-api", "name: " + long, "credentials[0].name is no name"},
		"a fleet that fits into no message":   {"[a, b]", "[" + strings.Join(fleetOf(15000).Instances, ", ") + "]", "credentials[0].consumers have instances whose names take 318906 bytes"},
		"a spec that fits into no message":    {"8082/{instance}", "8082/{instance}" + strings.Repeat("x", 600<<10), "credentials[0].consumers make a spec of "},
		"an owner too long for its attribute": {"owner: payments@example.com", "owner: " + long, "credentials[0].owner is longer than 255 bytes"},
		"an environment too long":             {"environment: production", "environment: " + long, "credentials[0].environment is longer than 255 bytes"},
		"a label too long for its attribute":  {"{team: payments}", "{team: " + long + "}", "credentials[0].labels has a label \"team\" longer than 255 bytes"},
		"labels too long together":            {"{team: payments}", manyLabels(12), "credentials[0].labels are"},
		"a label with other characters":       {"{team: payments}", "{team: \"pay=ments\"}", "credentials[0].labels has \"team\": \"pay=ments\""},
		"an overlap as long as the cadence":   {"    policy: normal\n", "    policy: normal\n    rotateEvery: 2d\n    overlap: 48h\n", "credentials[0].overlap is 2d, not shorter than the cadence of 2d"},
		"a quiet window above the overlap":    {"    policy: normal\n", "    policy: normal\n    overlap: 1h\n    quietWindow: 61m\n", "credentials[0].quietWindow is 1h1m, longer than the overlap of 1h"},
		"a quiet window below the lag":        {"    policy: normal\n", "    policy: normal\n    quietWindow: 999ms\n", "credentials[0].quietWindow is 999ms, below the 1s with which issuer type gateway reports usage"},
		"a budget without health signal":      {"    policy: normal\n", "    policy: normal\n    errorBudget: {ratio: 0.1}\n", "credentials[0].errorBudget has no health signal to judge by"},
		"a ratio above one":                   {"    policy: normal\n", "    policy: normal\n    errorBudget: {ratio: 1.5}\n", "credentials[0].errorBudget.ratio is 1.5"},
		"a hold of no time":                   {"    policy: normal\n", "    policy: normal\n    errorBudget: {maxHold: 0s}\n", "credentials[0].errorBudget.maxHold is 0s; write a duration from 1s to 90d"},
		"a budget with an unknown reaction":   {"    policy: normal\n", "    policy: normal\n    errorBudget: {onBreach: panic}\n", "credentials[0].errorBudget.onBreach is \"panic\"; write rollback or pause"},
		"a canary that is the whole fleet":    {"      - name: checkout\n", "      - name: checkout\n        wave: canary\n", "credentials[0].consumers are all in the canary wave"},
		"no consumer and no flag":             {base[strings.Index(base, "    consumers:"):], "", "credentials[0].consumers is missing; declare who uses the key, or write noConsumers: true"},
		"consumers in spite of the flag":      {"    consumers:\n", "    noConsumers: true\n    consumers:\n", "credentials[0].noConsumers is set, and there are consumers"},
		"a consumer without attestation":      {"        attestation: {type: http, url: \"http://127.0.0.1:8081/keyturn\"}\n", "", "credentials[0].consumers[0].attestation is missing"},
		"a consumer without check":            {"        check: {type: http, url: \"http://127.0.0.1:8081/healthz\"}\n", "", "credentials[0].consumers[0].check is missing"},
		"a consumer on a client device":       {"        wave: canary\n", "        surface: client\n", "credentials[0].consumers[0].surface is client: such a place can keep no secret"},
		"a consumer in front-end code":        {"        wave: canary\n", "        surface: frontend\n", "credentials[0].consumers[0].surface is frontend: such a place can keep no secret"},
		"an unknown surface":                  {"        wave: canary\n", "        surface: moon\n", "credentials[0].consumers[0].surface is \"moon\"; write server"},
		"instances with one target":           {"/run/keys/{instance}/key", "/run/keys/key", "credentials[0].consumers[1].target is the same for all instances"},
		"instances with one attestation":      {"8082/{instance}", "8082/keyturn", "credentials[0].consumers[1].attestation is the same for all instances"},
		"usage that several would share":      {"attestation: {type: http, url: \"http://127.0.0.1:8081/keyturn\"}", "attestation: {type: awsiam, account: edge, principal: payments-api}", "credentials[0].consumers[0].attestation is the issuer's record of uses, which does not tell 3 instances apart"},
		"usage of another issuer":             {"attestation: {type: http, url: \"http://127.0.0.1:8081/keyturn\"}", "attestation: {type: awsiam, account: edge, principal: payments-api}", "credentials[0].consumers[0].attestation is the record of uses of another issuer"},
		"an instance twice":                   {"[a, b]", "[a, a]", "credentials[0].consumers[1].instances[1] is there twice"},
		"a consumer twice":                    {"name: checkout", "name: canary", "credentials[0].consumers[1].name is \"canary\", like another consumer's"},
		"a dependency on itself":              {"    policy: normal\n", "    policy: normal\n    dependsOn: [payments-api]\n", "credentials[0].dependsOn[0] is the credential itself"},
		"an unknown dependency":               {"    policy: normal\n", "    policy: normal\n    dependsOn: [nobody]\n", "credentials[0].dependsOn[0] names \"nobody\", which is not in this inventory"},
		"an unknown policy":                   {"policy: normal", "policy: strict", "credentials[0].policy names policy \"strict\", which is not there"},
		"an unknown risk":                     {"risk: standard", "risk: medium", "policies.normal.risk is \"medium\"; write low, standard, high or critical"},
		"an unknown trust":                    {"{from: [owners]}", "{from: [owners], trust: all}", "credentials[0].approvals.revoke.trust is \"all\"; write signed or any"},
		"signed approvals of nobody":          {"{from: [owners]}", "{count: 1}", "credentials[0].approvals.revoke.from is missing"},
		"an unknown type of issuer":           {"type: gateway", "type: gatway", "credentials[0].issuer.type is \"gatway\", which cannot be used as issuer; write awsiam or gateway"},
		"a type in a role that it has not":    {"issuer: {type: gateway", "issuer: {type: http", "credentials[0].issuer.type is \"http\", which cannot be used as issuer"},
		"an issuer without account":           {"account: edge, ", "", "credentials[0].issuer.account is missing"},
		"no issuer":                           {"    issuer: {type: gateway, account: edge, principal: payments-api}\n", "", "credentials[0].issuer is missing"},
		"no owner":                            {"    owner: payments@example.com\n", "", "credentials[0].owner is missing"},
		"no purpose":                          {"    purpose: charges\n", "", "credentials[0].purpose is missing"},
		"an unknown time zone":                {"    policy: normal\n", "    policy: normal\n    schedule: {timeZone: Mars/Base}\n", "credentials[0].schedule.timeZone is \"Mars/Base\""},
		"a time of day that is none":          {"    policy: normal\n", "    policy: normal\n    schedule: {at: \"25:00\"}\n", "credentials[0].schedule.at is \"25:00\""},
		"a problem of a provider's own":       {"/run/keys/canary/key", "keys/canary", "inventory.yaml:19:36: credentials[0].consumers[0].target.path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(base, c.old, c.new, 1)
			require.NotEqual(t, base, text, "the case changes something")
			_, err := load(text)
			require.Error(t, err)
			assert.Contains(t, err.Error(), c.want)
		})
	}
}

func manyLabels(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "l%d: %s, ", i, strings.Repeat("v", 200))
	}
	return "{" + strings.TrimSuffix(b.String(), ", ") + "}"
}

func TestWhatTwoCredentialsMayNotShare(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"a name":             {"name: second", "name: payments-api", "credentials[1].name is the same as that of credential \"payments-api\""},
		"a principal":        {"principal: second", "principal: payments-api", "credentials[1].issuer is the same as that of credential \"payments-api\""},
		"a secret path":      {"path: second", "path: payments-api", "credentials[1].store is the same as that of credential \"payments-api\""},
		"a circle":           {"    policy: normal\n    issuer: {type: gateway, account: edge, principal: second}", "    dependsOn: [payments-api]\n    policy: normal\n    issuer: {type: gateway, account: edge, principal: second}", "is a cycle: payments-api -> second -> payments-api"},
		"a bound of 1 MiB":   {"purpose: charges\n    environment: production\n    policy: normal\n    issuer: {type: gateway, account: edge, principal: second}", "purpose: " + strings.Repeat("x", 1<<20) + "\n    issuer: {type: gateway, account: edge, principal: second}", "has more than 1048576 bytes"},
		"an unmet circle id": {"name: second", "name: second\n    dependsOn: [second]", "credentials[1].dependsOn[0] is the credential itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := base
			if name == "a circle" {
				first = strings.Replace(base, "    policy: normal\n", "    policy: normal\n    dependsOn: [second]\n", 1)
			}
			changed := strings.Replace(second, c.old, c.new, 1)
			require.NotEqual(t, second, changed)
			_, err := load(first + changed)
			require.Error(t, err)
			assert.Contains(t, err.Error(), c.want)
		})
	}
	t.Run("one principal of two accounts is two", func(t *testing.T) {
		t.Parallel()
		_, err := load(base + strings.Replace(second, "edge, principal: second", "other, principal: payments-api", 1))
		assert.NoError(t, err)
	})
}

func TestWhatTwoConsumersMayNotShare(t *testing.T) {
	t.Parallel()
	third := second[:strings.Index(second, "    noConsumers")] + `    consumers:
      - name: worker
        target: {type: file, path: /run/keys/worker/key}
        check: {type: http, url: "http://127.0.0.1:8083/healthz"}
        attestation: {type: http, url: "http://127.0.0.1:8083/keyturn"}
`
	all := base + third
	exec := strings.NewReplacer(
		`{type: http, url: "http://127.0.0.1:8081/keyturn"}`, "{type: exec, program: which}", `{type: http, url: "http://127.0.0.1:8082/{instance}"}`, "{type: exec, program: which}",
	).Replace(all)
	same := func(field, consumer, credential string) string {
		return fmt.Sprintf("%s is the same as that of consumer %q of credential %q; give each consumer its own", field, consumer, credential)
	}
	for name, c := range map[string]struct{ text, want string }{
		"one URL": {
			strings.Replace(strings.Replace(all, "8082/{instance}", "8081/keyturn", 1), "[a, b]", "[a]", 1),
			"inventory.yaml:26:22: " + same("credentials[0].consumers[1].attestation", "canary", "payments-api"),
		},
		"one URL, for one of the instances": {
			strings.Replace(strings.Replace(all, "8082/{instance}", "8081/{instance}", 1), "[a, b]", "[a, keyturn]", 1),
			same("credentials[0].consumers[1].attestation", "canary", "payments-api"),
		},
		"one URL in another spelling": {
			strings.Replace(strings.Replace(all, "http://127.0.0.1:8082/{instance}", "https://EDGE.internal/{instance}", 1), "http://127.0.0.1:8081/keyturn", "https://edge.internal/a", 1),
			same("credentials[0].consumers[1].attestation", "canary", "payments-api"),
		},
		"one URL, with statements in two places of its reply": {
			strings.Replace(strings.Replace(all, `8082/{instance}"`, `8081/keyturn", pointer: /checkout`, 1), "[a, b]", "[a]", 1),
			same("credentials[0].consumers[1].attestation", "canary", "payments-api"),
		},
		"one program, which is told the instance alone": {
			strings.Replace(exec, "[a, b]", "[a, canary]", 1),
			same("credentials[0].consumers[1].attestation", "canary", "payments-api"),
		},
		"one file": {
			strings.Replace(all, "[a, b]", "[a, canary]", 1),
			"inventory.yaml:24:17: " + same("credentials[0].consumers[1].target", "canary", "payments-api"),
		},
		"one file, with another credential's": {
			strings.Replace(all, "/run/keys/worker/key", "/run/keys/b/key", 1),
			same("credentials[1].consumers[0].target", "checkout", "payments-api"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NotEqual(t, all, c.text)
			_, err := load(c.text)
			require.Error(t, err)
			assert.Contains(t, err.Error(), c.want)
		})
	}
	t.Run("all at once", func(t *testing.T) {
		t.Parallel()
		text := strings.NewReplacer("[a, b]", "[canary]", "8082/{instance}", "8081/keyturn", "/run/keys/worker/key", "/run/keys/canary/key").Replace(all)
		_, err := load(text)
		for _, field := range []string{"credentials[0].consumers[1].target", "credentials[0].consumers[1].attestation", "credentials[1].consumers[0].target"} {
			assert.ErrorContains(t, err, same(field, "canary", "payments-api"))
		}
	})
	for name, text := range map[string]string{
		"each its own":                              all,
		"a program that is told two instances":      exec,
		"a URL that states keys of two credentials": strings.Replace(all, "8083/keyturn", "8081/keyturn", 1),
		"the store, which those that pull all read": strings.NewReplacer("{type: file, path: /run/keys/canary/key}", "{type: awssecretsmanager}", `{type: file, path: "/run/keys/{instance}/key"}`, "{type: awssecretsmanager}").Replace(all),
	} {
		t.Run("but "+name, func(t *testing.T) {
			t.Parallel()
			_, err := load(text)
			assert.NoError(t, err)
		})
	}
}

func TestASecretInTheFileIsFoundAndNotRepeated(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string]string{
		"an AWS access key":     "AKIAIOSFODNN7EXAMPLE",
		"one of a session":      "ASIAIOSFODNN7EXAMPLE",
		"a GitHub token":        "ghp_" + strings.Repeat("Ab1", 12),
		"one for a few things":  "github_pat_" + strings.Repeat("Ab1", 12),
		"a GitLab token":        "glpat-" + strings.Repeat("Ab1", 8),
		"a Google key":          "AIza" + strings.Repeat("Ab1", 12),
		"a token of Vault":      "hvs." + strings.Repeat("Ab1", 8),
		"a header":              "AUTHORIZATION : bearer " + strings.Repeat("Ab1", 4),
		"a Stripe key":          "sk_live_" + "4eC39HqLyjWDarjtT1",
		"a Slack token":         "xoxb-" + "1234567890-abcdefghij",
		"a PEM private key":     "-----BEGIN RSA PRIVATE KEY----- MIIEow",
		"a JWT":                 "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
		"a key of the gateway":  "ktg_ABCDEFGHIJKLMNOP_" + strings.Repeat("ABCDEFGHIJKLM", 4) + "012345",
		"a password in a URL":   "https://user:hunter2hunter2@edge.internal/",
		"a token inside a text": "use ghp_" + strings.Repeat("Ab1", 12) + " please",
		"one in an assignment":  "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY",
		"a secret key of AWS":   "wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(strings.Replace(base, "purpose: charges", "purpose: \""+secret+"\"", 1))
			require.Error(t, err)
			assert.Contains(t, err.Error(), "inventory.yaml:10:14: credentials[0].purpose looks like a secret in plain text")
			assert.NotContains(t, err.Error(), secret)
		})
	}
	for _, field := range []string{"password", "secret", "token", "apiKey", "api_key", "db-password"} {
		t.Run("a literal in a field called "+field, func(t *testing.T) {
			t.Parallel()
			_, err := load(strings.Replace(base, "{team: payments}", "{"+field+": hunter2}", 1))
			require.Error(t, err)
			assert.Contains(t, err.Error(), "looks like a secret in plain text")
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
	t.Run("the ID of an adopted key is no secret, in a file and in a spec", func(t *testing.T) {
		t.Parallel()
		inv, err := load(strings.Replace(base, "    policy: normal\n", "    policy: normal\n    adopt: [AKIAIOSFODNN7EXAMPLE]\n", 1))
		require.NoError(t, err)
		spec, err := inventory.NewSpec(inventory.Spec{Inventory: "i", Credential: inv.Credentials[0]})
		require.NoError(t, err)
		_, err = inventory.ParseSpec(spec.Body, real)
		assert.NoError(t, err)
	})
	for name, purpose := range map[string]string{
		"a digest":           "the one of commit 3f786850e387550fdab836ed7e6dc881de23001b",
		"a rule on who may":  "Authorization: whoever approves must be in owners",
		"a path":             "/usr/local/Share/keyturn/v2/inventories/x",
		"a name of 40":       "PaymentsThroughTheInternalGatewayVersion2",
		"a public key":       "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
		"a digest in base64": "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
	} {
		t.Run(name+" is no secret", func(t *testing.T) {
			t.Parallel()
			_, err := load(strings.Replace(base, "purpose: charges", "purpose: \""+purpose+"\"", 1))
			assert.NoError(t, err)
		})
	}
	t.Run("a placeholder is no secret", func(t *testing.T) {
		t.Parallel()
		_, err := load(strings.Replace(base, "    policy: normal\n", "    policy: normal\n    verify: [{type: http, url: \"https://e.internal/\", header: \"Authorization: Bearer {value}\"}]\n", 1))
		assert.NoError(t, err)
	})
}

func TestAllErrorsOfAFileComeAtOnce(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("purpose: charges", "porpose: charges", "/run/keys/canary/key", "keys", "[a, b]", "[a, a]", "wave: canary", "surface: client").Replace(base)
	_, err := load(text)
	var list strictyaml.Errors
	require.True(t, errors.As(err, &list))
	for _, field := range []string{"porpose", "purpose", "consumers[0].target.path", "consumers[1].instances[1]", "consumers[0].surface"} {
		assert.Contains(t, err.Error(), "credentials[0]."+field)
	}
	for _, e := range list {
		assert.Positive(t, e.Line)
		assert.Positive(t, e.Column)
		assert.NotEmpty(t, e.What)
	}
}

func TestTermsComeFromTheCredentialThenItsPolicyThenTheDefaults(t *testing.T) {
	t.Parallel()
	inv, err := load(`apiVersion: keyturn/v1
inventory: payments
defaults:
  owner: team
  environment: production
  labels: {from: defaults, kept: "yes"}
  overlap: 3d
  waveSoak: 7m
  approvals: {revoke: {from: [owners]}}
policies:
  careful: {risk: high, waveSoak: 8m, disableSoak: 2d, approvals: {revoke: {count: 2}}}
credentials:
  - name: by-default
    purpose: p
    issuer: {type: gateway, account: edge, principal: one}
    store: {type: file, account: vault, path: one}
    noConsumers: true
  - name: by-risk
    purpose: p
    risk: high
    labels: {from: credential}
    disableSoak: 3d
    approvals: {revoke: {trust: any}}
    issuer: {type: gateway, account: edge, principal: two}
    store: {type: file, account: vault, path: two}
    noConsumers: true
`)
	require.NoError(t, err)
	first, high := inv.Credentials[0], inv.Credentials[1]
	hour := inventory.Duration(time.Hour)
	assert.Equal(t, inventory.RiskStandard, first.Risk)
	assert.Equal(t, 90*24*hour, first.RotateEvery, "the default of its risk")
	assert.Equal(t, 3*24*hour, first.Overlap, "the file's default")
	assert.Equal(t, inventory.Approval{From: []string{"owners"}, Count: 1, Trust: inventory.TrustSigned, RequestExpires: 72 * hour, ApprovalExpires: 24 * hour}, *first.Approvals.Revoke)
	assert.Equal(t, "team", first.Owner)
	assert.Equal(t, "careful", high.Policy, "by risk")
	assert.Equal(t, 30*24*hour, high.RotateEvery, "the default of its own risk")
	assert.Equal(t, 8*hour/60, high.WaveSoak, "its policy's")
	assert.Equal(t, 3*24*hour, high.DisableSoak, "its own")
	assert.Equal(t, inventory.Approval{From: []string{"owners"}, Count: 2, Trust: inventory.TrustAny, RequestExpires: 72 * hour, ApprovalExpires: 24 * hour}, *high.Approvals.Revoke,
		"each field of an approval comes from the nearest that says it")
	assert.Equal(t, map[string]string{"from": "credential", "kept": "yes"}, high.Labels)
	assert.Equal(t, 1, first.Approvals.Revoke.Count, "one credential's terms never change another's")
}

func TestDefaultTerms(t *testing.T) {
	t.Parallel()
	hour := inventory.Duration(time.Hour)
	for risk, every := range map[inventory.Risk]inventory.Duration{"low": 90 * 24 * hour, "standard": 90 * 24 * hour, "high": 30 * 24 * hour, "critical": 7 * 24 * hour} {
		terms := inventory.DefaultTerms(risk)
		assert.Equal(t, every, terms.RotateEvery, risk)
		assert.Equal(t, []inventory.Duration{24 * hour, hour, hour / 12, hour / 4, 24 * hour}, []inventory.Duration{terms.Overlap, terms.QuietWindow, terms.WaveSoak, terms.WaveTimeout, terms.DisableSoak})
		assert.Nil(t, terms.Approvals.Signoff)
	}
}

func TestTwoPoliciesOfOneRiskAreAChoiceThatTheCredentialMakes(t *testing.T) {
	t.Parallel()
	two := strings.Replace(base, "policies:\n", "policies:\n  other: {risk: standard}\n", 1)
	_, err := load(two)
	require.NoError(t, err, "it names one")
	_, err = load(strings.Replace(two, "    policy: normal\n", "", 1))
	assert.ErrorContains(t, err, "credentials[0] has risk standard, for which there are several policies: normal, other; name one with policy:")
}

func TestAProvidersObjectIsKeptAsCanonicalJSON(t *testing.T) {
	t.Parallel()
	inv, err := load(base)
	require.NoError(t, err)
	c := inv.Credentials[0]
	assert.Equal(t, `{"account":"edge","principal":"payments-api","type":"gateway"}`, string(c.Issuer.Config))
	assert.Equal(t, "gateway", c.Issuer.Type)
	assert.Equal(t, "edge", c.Issuer.Account)
	var again inventory.Provider
	require.NoError(t, json.Unmarshal(c.Issuer.Config, &again))
	assert.Equal(t, c.Issuer, again)
}

// What cannot be parsed has nothing that could be missing.
func TestASyntaxErrorComesAlone(t *testing.T) {
	t.Parallel()
	_, err := load(base + "  - [\n")
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
	assert.Contains(t, err.Error(), "has a syntax error")
}

func TestAMistypedTypeIsOneError(t *testing.T) {
	t.Parallel()
	_, err := load(strings.Replace(base, "type: gateway", "type: gatway", 1))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
}

func TestNullRemovesABudgetThatIsInherited(t *testing.T) {
	t.Parallel()
	budget := "    errorBudget: {ratio: 0.02, window: 10m}\n"
	health := "    health: [{type: http, url: \"http://127.0.0.1:8081/stats\"}]\n"
	inherited := strings.Replace(strings.Replace(base, "risk: standard\n", "risk: standard\n"+budget, 1), "    policy: normal\n", "    policy: normal\n"+health, 1)
	require.Contains(t, inherited, budget)
	for _, c := range []struct {
		says string
		want *inventory.ErrorBudget
	}{
		{"", &inventory.ErrorBudget{Ratio: 0.02, Window: inventory.Duration(10 * time.Minute), MinTotal: 20, MaxHold: inventory.DefaultMaxHold, OnBreach: inventory.BreachRollback}},
		{"    errorBudget: {ratio: 0.5}\n", &inventory.ErrorBudget{Ratio: 0.5, Window: inventory.Duration(10 * time.Minute), MinTotal: 20, MaxHold: inventory.DefaultMaxHold, OnBreach: inventory.BreachRollback}},
		{"    errorBudget: null\n", nil},
		{"    errorBudget: ~\n", nil},
	} {
		inv, err := load(strings.Replace(inherited, "    policy: normal\n", "    policy: normal\n"+c.says, 1))
		require.NoError(t, err, c.says)
		assert.Equal(t, c.want, inv.Credentials[0].ErrorBudget, c.says)
	}
}
