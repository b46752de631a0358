package awsiam

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The identity whose policies are tried is of the same account, or it is none.
func FuzzPolicySource(f *testing.F) {
	for _, seed := range []string{
		"arn:aws:sts::123456789012:assumed-role/keyturn/session", "arn:aws-us-gov:sts::123456789012:assumed-role/a/b/c", "arn:aws:iam::123456789012:user/team/payments",
		"arn:aws:iam::123456789012:root", "arn:aws:sts::123456789012:federated-user/payments", "arn:aws:sts::1:assumed-role//x", "nonsense", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arn string) {
		source, ok := policySource(arn)
		assert.LessOrEqual(t, len(source), len(arn))
		if !ok {
			assert.Equal(t, arn, source)
			return
		}
		assert.True(t, strings.Contains(source, ":role/") || strings.Contains(source, ":user/"), source)
		if source == arn {
			return
		}
		was, is := strings.SplitN(arn, ":", 6), strings.SplitN(source, ":", 6)
		assert.Equal(t, was[1], is[1], "partition")
		assert.Equal(t, "iam", is[2])
		assert.Equal(t, was[4], is[4], "account")
		assert.True(t, strings.HasPrefix(was[5], "assumed-"+is[5]+"/"), "%s of %s", source, arn)
	})
}
