package workerconfig_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

func configOf(t *testing.T, text string) *workerconfig.Config {
	t.Helper()
	c, err := load(text)
	require.NoError(t, err)
	return c
}

// denied checks that the error is providers.ErrDenied and names the bound and where it is set.
func denied(t *testing.T, err error, bound, what string) {
	t.Helper()
	require.ErrorIs(t, err, providers.ErrDenied, what)
	assert.Contains(t, err.Error(), bound, what)
	assert.Contains(t, err.Error(), "worker configuration", what)
}

func TestPrincipalsAndStorePathsAreGlobs(t *testing.T) {
	t.Parallel()
	c := configOf(t, base)
	assert.NoError(t, c.AllowPrincipal("production", "payments-api"))
	for _, p := range []string{"payments", "payouts-api", "x-payments-api", "", "payments-a/b", "payments-a\nb/c"} {
		denied(t, c.AllowPrincipal("production", p), "bounds.production.principals", p)
	}
	assert.NoError(t, c.AllowStorePath("production", "payments/api"))
	assert.NoError(t, c.AllowStorePath("production", "payments/eu/api"), "** crosses slashes")
	for _, p := range []string{"payments", "payouts/api", "xpayments/api", ""} {
		denied(t, c.AllowStorePath("production", p), "bounds.production.storePaths", p)
	}
	exact := configOf(t, strings.Replace(base, "payments/**", "a.b+c", 1))
	assert.NoError(t, exact.AllowStorePath("production", "a.b+c"))
	denied(t, exact.AllowStorePath("production", "axb+c"), "storePaths", "no character but * means another")
}

func TestAnEnvironmentThatIsNotListedMayDoNothing(t *testing.T) {
	t.Parallel()
	c := configOf(t, base)
	for name, err := range map[string]error{
		"principal": c.AllowPrincipal("staging", "payments-api"), "store path": c.AllowStorePath("staging", "payments/a"),
		"file": c.AllowFile("staging", "/run/keys/a"), "host": c.AllowHost("staging", "127.0.0.1:8081"),
		"none": c.AllowPrincipal("", "payments-api"),
	} {
		denied(t, err, "is not under bounds", name)
	}
	problems := c.CheckSpec(inventory.Spec{Credential: inventory.Credential{Environment: "staging"}})
	require.Len(t, problems, 1)
	denied(t, problems[0], `environment "staging" is not under bounds`, "spec")
}

func TestAnEmptyListAllowsNothing(t *testing.T) {
	t.Parallel()
	c := configOf(t, "apiVersion: keyturn/worker/v1\naccounts: {v: {type: file, root: /v}}\nbounds: {test: {}}\n")
	denied(t, c.AllowPrincipal("test", "a"), "bounds.test.principals", "")
	denied(t, c.AllowStorePath("test", "a"), "bounds.test.storePaths", "")
	denied(t, c.AllowFile("test", "/a"), "bounds.test.fileRoots", "")
	denied(t, c.AllowHost("test", "a:1"), "bounds.test.hosts", "")
}

func TestAnAccountServesTheEnvironmentsThatNameIt(t *testing.T) {
	t.Parallel()
	spec := func(environment, account string) inventory.Spec {
		return inventory.Spec{Credential: inventory.Credential{
			Environment: environment, Terms: inventory.Terms{Overlap: inventory.Duration(24 * time.Hour), Approvals: inventory.Approvals{Revoke: &inventory.Approval{Count: 1}}},
			Issuer: inventory.Provider{Account: "edge"}, Store: inventory.Provider{Account: "vault-dir"}, Risk: inventory.RiskStandard,
			Consumers: []inventory.Consumer{{Target: inventory.Provider{Account: account}}},
		}}
	}
	assert.Empty(t, configOf(t, base).CheckSpec(spec("production", "edge")), "the only environment has all")
	c := configOf(t, strings.NewReplacer("  vault-dir:", "  play: {type: file, root: /var/lib/play}\n  vault-dir:",
		"bounds:\n", "bounds:\n  play: {accounts: [play]}\n", "    fileRoots", "    accounts: [edge, vault-dir]\n    fileRoots").Replace(base))
	assert.Empty(t, c.CheckSpec(spec("production", "edge")))
	problems := c.CheckSpec(spec("production", "play"))
	require.Len(t, problems, 1)
	denied(t, problems[0], "bounds.production.accounts", "an account of a consumer")
	problems = c.CheckSpec(spec("play", "play"))
	require.Len(t, problems, 2)
	denied(t, problems[0], `account "edge" is outside of bounds.play.accounts`, "the issuer")
	denied(t, problems[1], `account "vault-dir" is outside of bounds.play.accounts`, "the store")
}

func TestAProgramIsRunForTheEnvironmentsThatNameIt(t *testing.T) {
	t.Parallel()
	c := configOf(t, base)
	assert.NoError(t, c.AllowProgram("production", "reload-checkout"), "all, where none is named")
	denied(t, c.AllowProgram("production", "rm"), `program "rm" is not under programs`, "")
	denied(t, c.AllowProgram("staging", "reload-checkout"), "is not under bounds", "")
	none := configOf(t, strings.Replace(base, "    fileRoots", "    programs: []\n    fileRoots", 1))
	denied(t, none.AllowProgram("production", "reload-checkout"), "bounds.production.programs", "")
}

// A worker reads its configuration anew while activities run.
func TestTheDoorsAskTheConfigurationThatIsInForce(t *testing.T) {
	t.Parallel()
	c := configOf(t, base)
	doors := workerconfig.Environment(func() *workerconfig.Config { return c }, "production")
	_, err := doors.Program("reload-checkout")
	require.NoError(t, err)
	c = configOf(t, "apiVersion: keyturn/worker/v1\naccounts: {v: {type: file, root: /v}}\nbounds: {production: {}}\n")
	_, err = doors.Program("reload-checkout")
	denied(t, err, "is not under programs", "")
	denied(t, doors.AllowFile("/run/keys/a"), "bounds.production.fileRoots", "")
}

func TestFilesLieBelowARootAfterLinksWereFollowed(t *testing.T) {
	t.Parallel()
	outside, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	root := filepath.Join(outside, "keys")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "checkout"), 0o700))
	require.NoError(t, os.Mkdir(root+"-other", 0o700))
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "out")))
	require.NoError(t, os.Symlink(filepath.Join(root, "checkout"), filepath.Join(root, "in")))
	require.NoError(t, os.Symlink(root, filepath.Join(outside, "alias")))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "checkout", "linked")))
	c := configOf(t, strings.Replace(base, "/run/keys", root, 1))

	for name, path := range map[string]string{
		"a file that exists not yet": "checkout/key", "one whose folder exists not yet": "new/deep/key", "by a link within": "in/key",
	} {
		assert.NoError(t, c.AllowFile("production", filepath.Join(root, path)), name)
	}
	assert.NoError(t, c.AllowFile("production", filepath.Join(outside, "alias", "key")), "by a link to the root")
	for name, path := range map[string]string{
		"the root itself": root, "a folder above": outside, "one that begins with its name": root + "-other/key", "out by dots": root + "/../secret",
		"out by a link": root + "/out/key", "out by a link and new folders": root + "/out/new/key", "a link to a file outside": root + "/checkout/linked",
		"a relative path": "keys/checkout/key", "nothing": "", "the file system": "/",
	} {
		err := c.AllowFile("production", path)
		assert.ErrorIs(t, err, providers.ErrDenied, name)
	}
	denied(t, c.AllowFile("production", "/etc/passwd"), "bounds.production.fileRoots", "the bound is named")

	linked := configOf(t, strings.Replace(base, "/run/keys", filepath.Join(outside, "alias"), 1))
	assert.NoError(t, linked.AllowFile("production", filepath.Join(root, "key")), "a root may be a link, too")
}

func TestHosts(t *testing.T) {
	t.Parallel()
	c := configOf(t, base)
	for _, host := range []string{"edge.internal:443", "a.b.internal:443", "EDGE.Internal:443", "127.0.0.1:8081"} {
		assert.NoError(t, c.AllowHost("production", host), host)
	}
	for _, host := range []string{
		"internal:443", "edge.internal:80", "edge.internal", "edgeinternal:443", "edge.internal.evil.com:443", "127.0.0.1:8082", "127.0.0.1:80810", "localhost:8081", "", ":443", "edge.internal:4430",
	} {
		denied(t, c.AllowHost("production", host), "bounds.production.hosts", host)
	}
}

func TestBoundsMayDemandSignedApprovals(t *testing.T) {
	t.Parallel()
	c := configOf(t, strings.Replace(base, "minRisk: standard\n    minOverlap: 24h\n    minApprovals: 1", "signedApprovals: true", 1))
	check := func(revoke *inventory.Approval) []error {
		return c.CheckSpec(inventory.Spec{Credential: inventory.Credential{Environment: "production", Terms: inventory.Terms{Approvals: inventory.Approvals{Revoke: revoke}}}})
	}
	assert.Empty(t, check(&inventory.Approval{Count: 1, Trust: inventory.TrustSigned}))
	for name, revoke := range map[string]*inventory.Approval{"no gate": nil, "a gate for anybody": {Count: 1, Trust: inventory.TrustAny}, "a gate that does not say": {Count: 1}} {
		problems := check(revoke)
		require.Len(t, problems, 1, name)
		denied(t, problems[0], "a revoke gate that takes unsigned approvals is outside of bounds.production.signedApprovals", name)
	}
}

func TestASpecAsksForNoLessThanTheBounds(t *testing.T) {
	t.Parallel()
	c := configOf(t, base)
	day, approved := inventory.DefaultTerms(inventory.RiskStandard).Overlap, inventory.Approvals{Revoke: &inventory.Approval{Count: 1}}
	good := inventory.Credential{Environment: "production", Risk: inventory.RiskStandard, Terms: inventory.Terms{Overlap: day, Approvals: approved}}
	assert.Empty(t, c.CheckSpec(inventory.Spec{Credential: good}))
	for name, x := range map[string]struct {
		change func(*inventory.Credential)
		want   []string
	}{
		"a lower risk":        {func(c *inventory.Credential) { c.Risk = inventory.RiskLow }, []string{"risk low is outside of bounds.production.minRisk"}},
		"a higher risk":       {func(c *inventory.Credential) { c.Risk = inventory.RiskCritical }, nil},
		"an unknown risk":     {func(c *inventory.Credential) { c.Risk = "none" }, []string{"bounds.production.minRisk"}},
		"a shorter overlap":   {func(c *inventory.Credential) { c.Overlap = day - 1 }, []string{"bounds.production.minOverlap"}},
		"no approval":         {func(c *inventory.Credential) { c.Approvals.Revoke = nil }, []string{"a revoke gate with the count 0 is outside of bounds.production.minApprovals"}},
		"an approval of none": {func(c *inventory.Credential) { c.Approvals.Revoke = &inventory.Approval{} }, []string{"bounds.production.minApprovals"}},
		"everything at once": {func(c *inventory.Credential) {
			*c = inventory.Credential{Environment: "production", Risk: inventory.RiskLow}
		}, []string{"minRisk", "minOverlap", "minApprovals"}},
		"more than is asked": {func(c *inventory.Credential) { c.Overlap = 2 * day; c.Approvals.Revoke = &inventory.Approval{Count: 5} }, nil},
		"a gate before signoff": {func(c *inventory.Credential) {
			c.Approvals = inventory.Approvals{Signoff: &inventory.Approval{Count: 1}}
		}, []string{"minApprovals"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := good
			x.change(&changed)
			problems := c.CheckSpec(inventory.Spec{Credential: changed})
			require.Len(t, problems, len(x.want))
			for i, err := range problems {
				denied(t, err, x.want[i], name)
			}
		})
	}
}
