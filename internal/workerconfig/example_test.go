package workerconfig_test

import (
	"cmp"
	"encoding/json"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/all"
)

// The example configuration loads, and allows what the example inventory asks for.
func TestTheExamplesFitEachOther(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../keyturn-worker.example.yaml")
	require.NoError(t, err)
	config, err := workerconfig.Load("keyturn-worker.example.yaml", data, all.Descriptors())
	require.NoError(t, err)
	text, err := os.ReadFile("../../inventory.example.yaml")
	require.NoError(t, err)
	inv, err := inventory.Load("inventory.example.yaml", text, all.Catalog(all.Descriptors()...))
	require.NoError(t, err)
	asked := map[string]int{}
	for _, c := range inv.Credentials {
		require.Contains(t, config.Accounts, c.Issuer.Account)
		require.Contains(t, config.Accounts, c.Store.Account)
		require.NoError(t, config.AllowPrincipal(c.Environment, principalOf(t, c)))
		require.Empty(t, config.CheckSpec(inventory.Spec{Credential: c}), c.Name)
		for _, gate := range []inventory.Gate{inventory.GateSignoff, inventory.GateRevoke} {
			if approval := c.Approvals.For(gate); approval != nil {
				for _, group := range approval.From {
					require.Contains(t, config.Trust.Approvers, group, c.Name)
				}
			}
		}
		for door, names := range doorsOf(t, c) {
			allow := map[string]func(environment, name string) error{
				"program": config.AllowProgram, "host": config.AllowHost, "file": config.AllowFile, "store path": config.AllowStorePath,
			}[door]
			for _, name := range names {
				assert.NoError(t, allow(c.Environment, name), "%s of %s", door, c.Name)
				asked[door]++
			}
		}
	}
	require.Len(t, asked, 4, "each door is asked for something: %v", asked)
	for program := range config.Programs {
		require.Contains(t, string(text), "program: "+program, "a program that nothing runs")
	}
}

// doorsOf are the programs, hosts, files and store paths that a credential asks for.
func doorsOf(t *testing.T, c inventory.Credential) map[string][]string {
	t.Helper()
	doors := map[string][]string{}
	add := func(p *inventory.Provider, instance string) {
		if p == nil {
			return
		}
		var asks struct{ Program, URL, Path string }
		require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(string(p.Config), "{instance}", instance)), &asks))
		if asks.Program != "" {
			doors["program"] = append(doors["program"], asks.Program)
		}
		if asks.URL != "" {
			u, err := url.Parse(asks.URL)
			require.NoError(t, err)
			port := map[string]string{"https": "443", "http": "80"}[u.Scheme]
			doors["host"] = append(doors["host"], net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
		}
		if asks.Path != "" {
			doors["file"] = append(doors["file"], asks.Path)
		}
	}
	for _, p := range slices.Concat(c.Verify, c.Health) {
		add(&p, "")
	}
	for _, consumer := range c.Consumers {
		for _, instance := range consumer.InstanceNames() {
			add(&consumer.Target, instance)
			add(consumer.Check, instance)
			add(consumer.Attestation, instance)
		}
	}
	d, ok := all.Find(all.Descriptors(), c.Store.Type)
	require.True(t, ok)
	store := d.Store.Config().(providers.StoreConfig)
	require.NoError(t, c.Store.Decode(store))
	doors["store path"] = []string{store.SecretPath()}
	return doors
}

// The snippets of docs/aws.md are a worker configuration and an inventory, without their first lines.
func TestTheSnippetsOfThePageAboutAWSFitEachOther(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/aws.md")
	require.NoError(t, err)
	blocks := strings.Split(string(page), "```yaml\n")
	require.Greater(t, len(blocks), 2)
	for i := range blocks {
		blocks[i], _, _ = strings.Cut(blocks[i], "```\n")
	}
	config, err := workerconfig.Load("worker", []byte("apiVersion: keyturn/worker/v1\n"+blocks[1]), all.Descriptors())
	require.NoError(t, err)
	inv, err := inventory.Load("inventory", []byte("apiVersion: keyturn/v1\ninventory: payments\n"+blocks[2]), all.Catalog(all.Descriptors()...))
	require.NoError(t, err)
	for _, c := range inv.Credentials {
		require.NoError(t, config.AllowPrincipal(c.Environment, principalOf(t, c)))
		require.Empty(t, config.CheckSpec(inventory.Spec{Credential: c}), c.Name)
	}
}

func principalOf(t *testing.T, c inventory.Credential) string {
	t.Helper()
	d, ok := all.Find(all.Descriptors(), c.Issuer.Type)
	require.True(t, ok)
	config := d.Issuer.Config().(providers.IssuerConfig)
	require.NoError(t, c.Issuer.Decode(config))
	return config.Principals()[0]
}
