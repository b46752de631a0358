package inventory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/inventory"
)

const awsKey = "AKIAIOSFODNN7EXAMPLE"

func TestASecretIsFoundWhereverItStands(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"in a comment":                               base + "# it was " + awsKey + "\n",
		"in the name of a label":                     strings.Replace(base, "{team: payments}", "{"+awsKey+": x}", 1),
		"in an unknown field":                        strings.Replace(base, "    policy: normal\n", "    policy: normal\n    "+awsKey+": x\n", 1),
		"in a value that is quoted by another error": strings.Replace(base, "apiVersion: keyturn/v1", "apiVersion: "+awsKey, 1),
		"in a wrong duration":                        strings.Replace(base, "    policy: normal\n", "    policy: normal\n    overlap: "+awsKey+"\n", 1),
		"beside an error of syntax":                  strings.Replace(base, "purpose: charges", "purpose: "+awsKey, 1) + "  x: [\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(text)
			require.Error(t, err)
			assert.Contains(t, err.Error(), "looks like a secret")
			assert.NotContains(t, err.Error(), awsKey)
		})
	}
}

func TestAPurposeMaySayBasic(t *testing.T) {
	t.Parallel()
	_, err := load(strings.Replace(base, "purpose: charges", "purpose: basic authentication of the bearer endpoints", 1))
	assert.NoError(t, err)
}

func TestASpecWithASecretIsRefused(t *testing.T) {
	t.Parallel()
	signed := spec(t, base)
	signed.Body = []byte(strings.Replace(string(signed.Body), `"purpose":"charges"`, `"purpose":"`+awsKey+`"`, 1))
	_, err := inventory.ParseSpec(signed.Body, real)
	require.Error(t, err)
	assert.NotContains(t, err.Error(), awsKey)
}

func TestPositionsOfTheRootsFields(t *testing.T) {
	t.Parallel()
	_, err := load(strings.Replace(base, "keyturn/v1", "keyturn/v2", 1))
	assert.ErrorContains(t, err, "inventory.yaml:1:13: apiVersion is")
}

func TestAnAccountIsRefusedWhereATypeHasNone(t *testing.T) {
	t.Parallel()
	_, err := load(strings.Replace(base, `check: {type: http, `, `check: {type: http, account: edge, `, 1))
	assert.ErrorContains(t, err, "credentials[0].consumers[0].check.account")
}

func TestTermsEndWithinTenYears(t *testing.T) {
	t.Parallel()
	// Two of 200 years overflow when they are added up.
	_, err := load(strings.Replace(base, "    policy: normal\n", "    policy: normal\n    rotateEvery: 106000d\n    overlap: 73000d\n    disableSoak: 73000d\n", 1))
	require.Error(t, err)
	for _, field := range []string{"rotateEvery", "overlap", "disableSoak"} {
		assert.Contains(t, err.Error(), "credentials[0]."+field+" is")
	}
}

func TestNamesOfGroupsNotifiersAndEnvironmentsAreNames(t *testing.T) {
	t.Parallel()
	for field, text := range map[string]string{
		"approvals.revoke.from[0]": strings.Replace(base, "from: [owners]", `from: ["a b"]`, 1),
		"environment":              strings.Replace(base, "environment: production", `environment: "../x"`, 1),
		"notify[0]":                strings.Replace(base, "    policy: normal\n", "    policy: normal\n    notify: [\"\"]\n", 1),
		"issuer.account":           strings.Replace(base, "account: edge", `account: "../edge"`, 1),
	} {
		_, err := load(text)
		assert.ErrorContains(t, err, "credentials[0]."+field, field)
	}
}

func TestALongChainOfDependenciesIsRead(t *testing.T) {
	var b strings.Builder
	b.WriteString(base[:strings.Index(base, "  - name:")])
	const n = 500
	for i := range n {
		c := strings.ReplaceAll(second, "second", fmt.Sprintf("c%d", i))
		b.WriteString(strings.Replace(c, "    policy:", fmt.Sprintf("    dependsOn: [c%d]\n    policy:", min(i+1, n-1)), 1))
	}
	text := strings.Replace(b.String(), fmt.Sprintf("    dependsOn: [c%d]\n    policy: normal\n    issuer: {type: gateway, account: edge, principal: c%d}", n-1, n-1), fmt.Sprintf("    policy: normal\n    issuer: {type: gateway, account: edge, principal: c%d}", n-1), 1)
	_, err := load(text)
	require.NoError(t, err)
}
