package workerconfig_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers/all"
	"github.com/keyturn/keyturn/providers/file"
	"github.com/keyturn/keyturn/providers/gateway"
	"github.com/keyturn/keyturn/providers/webhook"
)

// base is a configuration that is fine. Tests change one thing of it.
const base = `apiVersion: keyturn/worker/v1
accounts:
  edge: {type: gateway, keyFile: /etc/edge/keys.json, quota: 50/s}
  vault-dir: {type: file, root: /var/lib/keyturn/store}
trust:
  inventory: [{environments: [production], allowedSigners: /etc/keyturn/inventory_signers}]
  approvers: {payments-owners: /etc/keyturn/payments_signers}
bounds:
  production:
    principals: ["payments-*"]
    storePaths: ["payments/**"]
    fileRoots: [/run/keys]
    hosts: ["*.internal:443", "127.0.0.1:8081"]
    minRisk: standard
    minOverlap: 24h
    minApprovals: 1
programs: {reload-checkout: [/usr/local/bin/reload-checkout, --now]}
notify: [{type: webhook, name: chat, url: "https://hooks.internal/keyturn"}, {type: log}]
freeze: [{type: file, path: /run/keyturn/deployments-frozen}, {type: exec, program: reload-checkout}]
accessLogs: [{path: /var/log/edge/access.jsonl, keyID: /key_id, at: /time, source: /client_ip}]
audit: {file: /var/log/keyturn/audit.jsonl, sink: {type: webhook, url: "https://audit.internal/keyturn"}}
`

func load(text string) (*workerconfig.Config, error) {
	return workerconfig.Load("keyturn-worker.yaml", []byte(text), all.Descriptors())
}

func TestEveryFieldIsRead(t *testing.T) {
	t.Parallel()
	c, err := load(base)
	require.NoError(t, err)
	assert.Equal(t, workerconfig.Account{Type: "gateway", Quota: workerconfig.Rate{PerSecond: 50}, Settings: &gateway.Account{KeyFile: "/etc/edge/keys.json"}}, c.Accounts["edge"])
	assert.Equal(t, &file.Account{Root: "/var/lib/keyturn/store"}, c.Accounts["vault-dir"].Settings)
	assert.Equal(t, []workerconfig.InventoryTrust{{Environments: []string{"production"}, AllowedSigners: "/etc/keyturn/inventory_signers"}}, c.Trust.Inventory)
	assert.Equal(t, map[string]string{"payments-owners": "/etc/keyturn/payments_signers"}, c.Trust.Approvers)
	assert.Equal(t, workerconfig.Bounds{
		Principals: []string{"payments-*"}, StorePaths: []string{"payments/**"}, FileRoots: []string{"/run/keys"}, Hosts: []string{"*.internal:443", "127.0.0.1:8081"},
		MinRisk: inventory.RiskStandard, MinApprovals: 1, MinOverlap: inventory.Duration(24 * time.Hour),
	}, c.Bounds["production"])
	assert.Equal(t, []string{"/usr/local/bin/reload-checkout", "--now"}, c.Programs["reload-checkout"])
	assert.Equal(t, workerconfig.Notifier{Type: "webhook", Name: "chat", Settings: &webhook.Config{URL: "https://hooks.internal/keyturn"}}, c.Notify[0])
	assert.Equal(t, "log", c.Notify[1].Type)
	assert.Equal(t, workerconfig.FreezeHook{Type: "file", Settings: &file.LockConfig{Path: "/run/keyturn/deployments-frozen"}}, c.Freeze[0])
	assert.Equal(t, "exec", c.Freeze[1].Type)
	assert.Equal(t, workerconfig.Audit{File: "/var/log/keyturn/audit.jsonl", Sink: workerconfig.Collector{Type: "webhook", Settings: &webhook.Config{URL: "https://audit.internal/keyturn"}}}, c.Audit)
}

func TestTheDigestIsTheFiles(t *testing.T) {
	t.Parallel()
	c, err := load("apiVersion: keyturn/worker/v1\naccounts: {v: {type: file, root: /v}}\nbounds: {test: {}}\n")
	require.NoError(t, err)
	// By sha256sum.
	assert.Equal(t, "517da7e238f925455471555df73fdebf6073b262a3e11d9c24de21276b153d02", c.Digest)
	other, err := load(base + "# a comment\n")
	require.NoError(t, err)
	same, err := load(base)
	require.NoError(t, err)
	assert.NotEqual(t, same.Digest, other.Digest)
}

func TestWhatAConfigurationMayNotHave(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"another version":                     {"worker/v1", "v1", "keyturn-worker.yaml:1:13: apiVersion is \"keyturn/v1\"; write keyturn/worker/v1"},
		"an unknown field":                    {"programs:", "programms:", "programms is not a known field; did you mean programs?"},
		"an unknown field of an account":      {"keyFile:", "keyfile:", "keyturn-worker.yaml:3:25: accounts.edge.keyfile is not a known field; did you mean keyFile?"},
		"an unknown field of a notifier":      {"url:", "uri:", "notify[0].uri is not a known field; did you mean url?"},
		"an unknown field of the bounds":      {"minRisk:", "minrisk:", "bounds.production.minrisk is not a known field; did you mean minRisk?"},
		"an account twice":                    {"  vault-dir: {type: file, root: /var/lib/keyturn/store}", "  edge: {type: file, root: /v}", "accounts.edge is given twice, first in line 3"},
		"an account's own problem":            {"/var/lib/keyturn/store", "store", "accounts.vault-dir.root is not an absolute, clean path"},
		"a notifier's own problem":            {"https://hooks.internal", "http://hooks.internal", "notify[0].url sends everything in the clear to another host"},
		"an unknown type of account":          {"type: gateway", "type: gatway", "accounts.edge.type is \"gatway\", which is no type of account"},
		"a type that has no account":          {"type: gateway, keyFile: /etc/edge/keys.json", "type: log", "accounts.edge.type is \"log\", which is no type of account"},
		"an unknown type of notifier":         {"{type: log}", "{type: file}", "notify[1].type is \"file\", which is no type of notifier"},
		"an account without type":             {"type: gateway, ", "", "accounts.edge.type is \"\", which is no type of account"},
		"a quota without unit":                {"50/s", "50", "accounts.edge.quota is"},
		"a quota of nothing":                  {"50/s", "0/s", "accounts.edge.quota is a rate of nothing"},
		"a quota by the day":                  {"50/s", "50/d", "accounts.edge.quota is no rate"},
		"a root that is not absolute":         {"[/run/keys]", "[run/keys]", "bounds.production.fileRoots[0] is \"run/keys\"; write an absolute, clean path"},
		"a root that is not clean":            {"[/run/keys]", "[/run/../etc]", "bounds.production.fileRoots[0] is \"/run/../etc\"; write an absolute, clean path"},
		"the whole file system":               {"[/run/keys]", "[/]", "bounds.production.fileRoots[0] is the whole file system"},
		"a host without port":                 {"127.0.0.1:8081", "127.0.0.1", "bounds.production.hosts[1] is \"127.0.0.1\"; write host:port or *.suffix:port"},
		"a port that is none":                 {"127.0.0.1:8081", "127.0.0.1:99999", "bounds.production.hosts[1] is \"127.0.0.1:99999\""},
		"a host of any name":                  {"*.internal:443", "*:443", "bounds.production.hosts[0] is \"*:443\""},
		"a star in the middle":                {"*.internal:443", "a.*.internal:443", "bounds.production.hosts[0] is \"a.*.internal:443\""},
		"the metadata service of a cloud":     {"127.0.0.1:8081", "169.254.169.254:80", "a link-local or unspecified address"},
		"a link-local address of IPv6":        {"127.0.0.1:8081", "[fe80::1]:80", "a link-local or unspecified address"},
		"the same in a disguise":              {"127.0.0.1:8081", "[::ffff:169.254.169.254]:80", "a link-local or unspecified address"},
		"any address":                         {"127.0.0.1:8081", "0.0.0.0:80", "a link-local or unspecified address"},
		"an empty glob":                       {"\"payments-*\"", "\"\"", "bounds.production.principals[0] is \"\""},
		"an unknown risk":                     {"minRisk: standard", "minRisk: medium", "bounds.production.minRisk is \"medium\"; write low, standard, high or critical"},
		"fewer rotations than none":           {"minApprovals: 1", "maxRotations: -1", "bounds.production.maxRotations is -1; write how many"},
		"fewer approvals than none":           {"minApprovals: 1", "minApprovals: -1", "bounds.production.minApprovals is negative"},
		"an overlap without unit":             {"minOverlap: 24h", "minOverlap: \"24\"", "bounds.production.minOverlap is not a duration"},
		"a program by name only":              {"[/usr/local/bin/reload-checkout, --now]", "[reload-checkout]", "programs.reload-checkout has no absolute path"},
		"a program of nothing":                {"[/usr/local/bin/reload-checkout, --now]", "[]", "programs.reload-checkout has no absolute path"},
		"a program as a command line":         {"[/usr/local/bin/reload-checkout, --now]", "/usr/local/bin/reload-checkout --now", "programs.reload-checkout is text; write a list"},
		"signers in a relative file":          {"/etc/keyturn/inventory_signers", "signers", "trust.inventory[0].allowedSigners is \"signers\"; write an absolute, clean path"},
		"signers of no environment":           {"environments: [production]", "environments: []", "trust.inventory[0].environments is empty"},
		"approvers in a relative file":        {"/etc/keyturn/payments_signers", "./signers", "trust.approvers.payments-owners is \"./signers\""},
		"an audit file in a relative path":    {"/var/log/keyturn/audit.jsonl", "audit.jsonl", "audit.file is \"audit.jsonl\""},
		"an audit sink without an audit file": {"file: /var/log/keyturn/audit.jsonl, ", "", "audit.sink has no audit.file"},
		"an audit sink of an unknown type":    {"sink: {type: webhook,", "sink: {type: log,", "audit.sink.type is \"log\", which is no type of audit sink; write webhook or stdout"},
		"an audit sink in the clear":          {"https://audit.internal", "http://audit.internal", "audit.sink.url sends everything in the clear to another host"},
		"an unknown field of an audit sink":   {"url: \"https://audit", "uri: \"https://audit", "audit.sink.uri is not a known field; did you mean url?"},
		"two environments of one account":     {"bounds:\n", "bounds:\n  play: {}\n", "bounds.play has no accounts, and there are other environments"},
		"the other of the two environments":   {"bounds:\n", "bounds:\n  play: {accounts: [edge]}\n", "bounds.production has no accounts"},
		"a freeze by a program that is none":  {"program: reload-checkout}", "program: other}", "freeze[1].program is \"other\", which is not under programs"},
		"a freeze by what freezes nothing":    {"{type: file, path: /run/keyturn/deployments-frozen}", "{type: log}", "freeze[0].type"},
		"a freeze by a file somewhere":        {"/run/keyturn/deployments-frozen", "deployments-frozen", "freeze[0].path is not an absolute, clean path"},
		"an access log somewhere":             {"/var/log/edge/access.jsonl", "access.jsonl", "accessLogs[0].path is \"access.jsonl\"; write an absolute, clean path"},
		"an access log without key IDs":       {"keyID: /key_id, ", "", "accessLogs[0].keyID is missing"},
		"an access log without times":         {"at: /time, ", "", "accessLogs[0].at is missing"},
		"a place in a line that is none":      {"source: /client_ip", "source: client_ip", "accessLogs[0].source is \"client_ip\", which is no JSON pointer"},
		"a field that no access log has":      {"source: /client_ip", "sauce: /client_ip", "accessLogs[0].sauce"},
		"a program that is none":              {"    fileRoots", "    programs: [reload]\n    fileRoots", "bounds.production.programs[0] is \"reload\", which is not under programs"},
		"an account that is none":             {"    fileRoots", "    accounts: [vault]\n    fileRoots", "bounds.production.accounts[0] is \"vault\", which is not under accounts"},
		"no accounts":                         {base[strings.Index(base, "accounts:"):strings.Index(base, "trust:")], "", "accounts has no entry"},
		"no bounds":                           {base[strings.Index(base, "bounds:"):strings.Index(base, "programs:")], "", "bounds has no entry"},
		"fewer unpromoted ones than none":     {"minApprovals: 1", "maxUnpromoted: -1", "bounds.production.maxUnpromoted is -1; write how many"},
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

func TestAllErrorsOfAConfigurationComeAtOnce(t *testing.T) {
	t.Parallel()
	_, err := load(strings.NewReplacer("worker/v1", "v1", "50/s", "50", "[/run/keys]", "[keys]", "{type: log}", "{type: lgo}").Replace(base))
	var list strictyaml.Errors
	require.True(t, errors.As(err, &list))
	require.Len(t, list, 4)
	assert.Equal(t, []int{1, 3, 12, 18}, []int{list[0].Line, list[1].Line, list[2].Line, list[3].Line})
}

func TestRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"50/s": 50, "600/m": 10, "36/h": 0.01, "1/s": 1} {
		var r workerconfig.Rate
		require.NoError(t, r.UnmarshalText([]byte(text)), text)
		assert.InDelta(t, want, r.PerSecond, 1e-9, text)
	}
	for _, text := range []string{"", "50", "/s", "0/s", "-1/s", "1.5/s", "50/d", "50/s ", "99999999999/s", "50 /s"} {
		var r workerconfig.Rate
		assert.Error(t, r.UnmarshalText([]byte(text)), text)
	}
}

func TestLoadFileRefusesAFileThatOthersMayWrite(t *testing.T) {
	t.Parallel()
	open := base[:strings.Index(base, "trust:")] + base[strings.Index(base, "bounds:"):]
	for mode, fine := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o644: true, 0o400: true, 0o666: false, 0o602: false, 0o620: false, 0o777: false} {
		path := filepath.Join(t.TempDir(), "keyturn-worker.yaml")
		require.NoError(t, os.WriteFile(path, []byte(open), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		c, err := workerconfig.LoadFile(path, all.Descriptors())
		if fine {
			require.NoError(t, err, mode)
			assert.NotEmpty(t, c.Digest)
			continue
		}
		require.Error(t, err, mode)
		assert.Contains(t, err.Error(), "lets others write it; run: chmod go-w "+path)
	}
	_, err := workerconfig.LoadFile(filepath.Join(t.TempDir(), "missing.yaml"), all.Descriptors())
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzRate(f *testing.F) {
	for _, seed := range []string{"50/s", "600/m", "1/h", "0/s", "999999999/s", "1/d", "-1/s", "1e3/s", "٣/s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r workerconfig.Rate
		if r.UnmarshalText([]byte(text)) != nil {
			assert.Zero(t, r)
			return
		}
		assert.Positive(t, r.PerSecond)
		assert.LessOrEqual(t, r.PerSecond, 1e9)
	})
}

// A bound that is taken lets through what it says and nothing besides.
func FuzzBounds(f *testing.F) {
	f.Add("*.internal:443", "payments-*", "evil.example:443", "payments-x/y")
	f.Add("169.254.169.254:80", "**", "a.internal:443", "x")
	f.Add("[::1]:8081", "a.c", "[::1]:8081", "abc")
	f.Add("*.1:80", "", "10.0.0.1:80", "\n")
	f.Fuzz(func(t *testing.T, host, glob, asked, principal string) {
		quoted := func(s string) string { text, _ := json.Marshal(s); return string(text) }
		text := fmt.Sprintf("apiVersion: keyturn/worker/v1\naccounts: {a: {type: file, root: /x}}\nbounds: {e: {hosts: [%s], principals: [%s]}}\n", quoted(host), quoted(glob))
		c, err := workerconfig.Load("fuzz.yaml", []byte(text), all.Descriptors())
		if err != nil {
			return
		}
		if c.AllowHost("e", asked) == nil {
			suffix, wild := strings.CutPrefix(strings.ToLower(host), "*")
			assert.True(t, strings.HasSuffix(strings.ToLower(asked), suffix) && (wild || len(asked) == len(host)), "%q by %q", asked, host)
			_, _, err := net.SplitHostPort(host)
			assert.NoError(t, err)
		}
		if c.AllowPrincipal("e", principal) == nil {
			begin, rest, wild := strings.Cut(glob, "*")
			assert.True(t, strings.HasPrefix(principal, begin), "%q by %q", principal, glob)
			assert.True(t, wild || principal == glob, "%q by %q", principal, glob)
			assert.True(t, strings.Contains(rest, "*") || strings.HasSuffix(principal, rest), "%q by %q", principal, glob)
			assert.True(t, strings.Contains(glob, "**") || strings.Count(principal, "/") == strings.Count(glob, "/"), "%q by %q", principal, glob)
		}
		require.Error(t, c.AllowHost("other", asked))
		require.Error(t, c.AllowPrincipal("other", principal))
	})
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(base))
	f.Add([]byte("accounts: {a: {type: file}}\nbounds: {x: {hosts: [\"*.\"]}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := workerconfig.Load("fuzz.yaml", data, all.Descriptors())
		if err != nil {
			assert.Nil(t, c)
			return
		}
		for name, b := range c.Bounds {
			assert.NotContains(t, b.FileRoots, "/")
			assert.NotNil(t, c.Environment(name).HTTP)
		}
	})
}
