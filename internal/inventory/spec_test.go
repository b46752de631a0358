package inventory_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/signed"
)

func spec(t testing.TB, text string) inventory.SignedSpec {
	inv, err := load(text)
	require.NoError(t, err)
	signed, err := inventory.NewSpec(inventory.Spec{Inventory: inv.Name, Generation: 1_700_000_000_000, Credential: inv.Credentials[0]})
	require.NoError(t, err)
	return signed
}

// roundTrips checks that a spec reads back as it was.
func roundTrips(t testing.TB, inv *inventory.Inventory) {
	for _, c := range inv.Credentials {
		signed, err := inventory.NewSpec(inventory.Spec{Inventory: inv.Name, Generation: 7, Credential: c})
		require.NoError(t, err)
		got, err := inventory.ParseSpec(signed.Body, real)
		require.NoError(t, err, string(signed.Body))
		assert.Equal(t, inv.Name, got.Inventory)
		assert.EqualValues(t, 7, got.Generation)
		again, err := inventory.NewSpec(got)
		require.NoError(t, err)
		assert.Equal(t, string(signed.Body), string(again.Body))
	}
}

func TestASpecReadsBackAsItWas(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../../inventory.example.yaml")
	require.NoError(t, err)
	for name, text := range map[string]string{"the base": base + second, "the example": string(example)} {
		inv, err := load(text)
		require.NoError(t, err, name)
		roundTrips(t, inv)
	}
}

func TestWhatASpecMayNotHave(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"an unknown field":                      {`"purpose":`, `"nonsense":`, "nonsense"},
		"an unknown field of a provider":        {`"principal":`, `"nonsense":`, "nonsense"},
		"a field twice, of which one is hidden": {`"owner":`, `"owner":"x","owner":`, "owner is given twice"},
		"a provider's field in other case":      {`"principal":"payments-api"`, `"Principal":"payments-api"`, "Principal"},
		"another schema":                        {"keyturn/spec/v1", "keyturn/spec/v2", "schema is \"keyturn/spec/v2\""},
		"a path in its name":                    {`"name":"payments-api"`, `"name":"../x"`, "name is no name"},
		"a path outside of a target's folder":   {"/run/keys/canary/key", "/run/keys/../../etc/passwd", "path"},
		"an unknown type":                       {`"type":"gateway"`, `"type":"nowhere"`, "cannot be used as issuer"},
		"an unknown risk":                       {`"risk":"standard"`, `"risk":"none"`, "risk is \"none\""},
		"an overlap as long as the cadence":     {`"overlap":"1d"`, `"overlap":"90d"`, "overlap is 90d, not shorter"},
		"a duration without unit":               {`"overlap":"1d"`, `"overlap":"5"`, "not a duration"},
		"a client's surface":                    {`"wave":"canary"`, `"surface":"client"`, "such a place can keep no secret"},
		"no attestation":                        {`"attestation":{"type":"http","url":"http://127.0.0.1:8081/keyturn"},`, "", "attestation is missing"},
		"a second value":                        {`"schema":"keyturn/spec/v1"}`, `"schema":"keyturn/spec/v1"} {}`, "more than one value"},
		"text instead of a list":                {`"instances":["a","b"]`, `"instances":"a"`, "instances"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			signed := spec(t, base)
			body := string(signed.Body)
			i := strings.LastIndex(body, c.old)
			if name != "a second value" {
				i = strings.Index(body, c.old)
			}
			require.GreaterOrEqual(t, i, 0, body)
			signed.Body = []byte(body[:i] + c.new + body[i+len(c.old):])
			_, err := inventory.ParseSpec(signed.Body, real)
			require.Error(t, err)
			assert.Contains(t, err.Error(), c.want)
		})
	}
}

func TestASpecNamesItselfWithoutBeingChecked(t *testing.T) {
	t.Parallel()
	got, err := spec(t, base).Peek()
	require.NoError(t, err)
	assert.Equal(t, "payments-api", got.Credential.Name)
	_, err = inventory.SignedSpec{Envelope: signed.Envelope{Body: []byte("{")}}.Peek()
	assert.Error(t, err)
}

func TestADependencyIsNotLookedUpInASpec(t *testing.T) {
	t.Parallel()
	inv, err := load(base + strings.Replace(second, "name: second", "name: second\n    dependsOn: [payments-api]", 1))
	require.NoError(t, err)
	signed, err := inventory.NewSpec(inventory.Spec{Inventory: inv.Name, Generation: 1, Credential: inv.Credentials[1]})
	require.NoError(t, err)
	got, err := inventory.ParseSpec(signed.Body, real)
	require.NoError(t, err)
	assert.Equal(t, []string{"payments-api"}, got.Credential.DependsOn)
}

func FuzzLoad(f *testing.F) {
	example, err := os.ReadFile("../../inventory.example.yaml")
	require.NoError(f, err)
	for _, seed := range []string{base, base + second, string(example), "apiVersion: keyturn/v1", "credentials: [{}]", "credentials:\n- name: a\n  dependsOn: [a]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		inv, err := inventory.Load("fuzz.yaml", data, real)
		if err == nil {
			roundTrips(t, inv)
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(spec(f, base).Body))
	f.Add([]byte(`{"schema":"keyturn/spec/v1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := inventory.ParseSpec(data, real)
		peek, peekErr := inventory.SignedSpec{Envelope: signed.Envelope{Body: data}}.Peek()
		if err == nil {
			assert.NotEmpty(t, got.Credential.Name)
			require.NoError(t, peekErr)
			assert.JSONEq(t, asJSON(t, peek), asJSON(t, got), "workflows, which only peek, see what activities do")
		}
	})
}

// Who opens providers takes from a parsed spec what was decoded when it was parsed.
func TestTheFieldsOfAParsedSpecAreDecoded(t *testing.T) {
	t.Parallel()
	made := spec(t, base)
	parsed, err := inventory.ParseSpec(made.Body, real)
	require.NoError(t, err)
	c := parsed.Credential
	ofRole := map[inventory.Role]inventory.Provider{inventory.RoleIssuer: c.Issuer, inventory.RoleStore: c.Store, inventory.RoleTarget: c.Consumers[0].Target}
	for role, p := range ofRole {
		known, ok := real.Lookup(role, p.Type)
		require.True(t, ok)
		want := known.NewConfig()
		require.NoError(t, p.Decode(want))
		assert.Equal(t, want, p.Fields(), role)
	}
	peek, err := made.Peek()
	require.NoError(t, err)
	assert.Nil(t, peek.Credential.Issuer.Fields(), "nobody opens what was only peeked at")
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}

// What a file may say, a worker takes: texts are judged one by one, as they are in the file.
func TestASpecIsJudgedAsItsFile(t *testing.T) {
	t.Parallel()
	for name, scopes := range map[string]string{
		"texts that are a secret side by side alone": `scopes: ["api://orders", "mail:send@eu"]`,
		"a name after a line's end":                  `scopes: ["orders\nrefunds"]`,
	} {
		inv, err := load(strings.Replace(base, "    policy: normal\n", "    policy: normal\n    "+scopes+"\n", 1))
		require.NoError(t, err, name)
		spec, err := inventory.NewSpec(inventory.Spec{Inventory: "i", Credential: inv.Credentials[0]})
		require.NoError(t, err)
		_, err = inventory.ParseSpec(spec.Body, real)
		require.NoError(t, err, name)
		_, err = inventory.ParseSpec([]byte(strings.Replace(string(spec.Body), "charges", "ghp_"+strings.Repeat("Ab1", 12), 1)), real)
		require.ErrorContains(t, err, "looks like a secret in plain text", name)
	}
}
