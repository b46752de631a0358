package activities_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/keyturn/keyturn/activities"
	"github.com/keyturn/keyturn/internal/accesslog"
	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/workerconfig"
)

// Issuer and access log tell of one key together; who used it before, and instances, are expected.
func TestAReviewAsksTheIssuerAndTheAccessLogs(t *testing.T) {
	t.Parallel()
	c := newCase(t)
	c.declare("key-old")
	log := filepath.Join(t.TempDir(), "access.jsonl")
	line := func(at time.Time, id, from, status string) string {
		return fmt.Sprintf(`{"time":%q,"key_id":%q,"client_ip":%q,"path":"/v1/charges?key=secret","status":%s}`+"\n", at.Format(time.RFC3339), id, from, status)
	}
	since, dead := c.now().Add(-time.Hour), c.now()
	require.NoError(t, os.WriteFile(log, []byte(
		line(since.Add(-time.Hour), "key-old", "10.0.0.7", "200")+line(dead.Add(-time.Minute), "key-old", "10.0.0.7", "200")+
			line(dead.Add(-time.Minute), "key-old", "192.0.2.1", "200")+line(dead.Add(5*time.Minute), "key-old", "192.0.2.1", "401")+
			line(dead, "key-of-another", "192.0.2.9", "200")), 0o600))
	config := *c.do.Config()
	config.AccessLogs = []accesslog.Log{
		{Path: log, KeyID: "/key_id", At: "/time", Source: "/client_ip", Action: "/path", Error: "/status"},
		{Path: "/nowhere/access.jsonl", KeyID: "/key_id", At: "/time"},
	}
	c.do.Config = func() *workerconfig.Config { return &config }
	c.wait(10 * time.Minute)
	var m policy.Misuse
	in := activities.MisuseInput{Rotation: c.subject(), ExposedSince: since, Dead: map[string]time.Time{"key-old": dead}}
	c.execute("ReviewMisuse", in, &m)
	var kinds []string
	for _, u := range m.Uses {
		kinds = append(kinds, string(u.Kind)+" "+u.Source+" "+u.Action)
	}
	assert.Equal(t, []string{
		"tried after its end 192.0.2.1 /v1/charges", "never seen before 192.0.2.1 /v1/charges",
		"expected checkout request", "expected 10.0.0.7 /v1/charges",
	}, kinds)
	assert.Equal(t, 2, m.Unusual)
	assert.Equal(t, []string{log, "the issuer's record"}, m.Tellers)
	assert.Contains(t, strings.Join(m.Unseen, "\n"), "/nowhere/access.jsonl did not tell who used key-old: reading access log")
	c.auditHas(audit.MisuseReviewed)
	trail, err := audit.Read(c.auditFile)
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(trail.Events), "tried after its end: key-old from 192.0.2.1 /v1/charges (401), 1 time,")
	assert.NotContains(t, fmt.Sprint(m, trail.Events), "secret")
}

// Nobody is told who used a key that no signed declaration lists.
func TestAReviewIsOfDeclaredKeysAlone(t *testing.T) {
	t.Parallel()
	for name, bend := range map[string]func(*crashCase, *activities.MisuseInput){
		"there is no declaration": func(_ *crashCase, in *activities.MisuseInput) { in.Emergency = nil },
		"another one than was signed": func(_ *crashCase, in *activities.MisuseInput) {
			e := *in.Emergency
			e.Declaration.Body = []byte(strings.Replace(string(e.Declaration.Body), "key-old", "key-new", 1))
			in.Emergency = &e
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t)
			c.declare("key-old")
			in := activities.MisuseInput{Rotation: c.subject()}
			bend(c, &in)
			err := c.attempt("ReviewMisuse", in, nil, 1)
			var refused *temporal.ApplicationError
			require.True(t, errors.As(err, &refused), "%v", err)
			assert.Equal(t, activities.TypeDeclaration, refused.Type())
		})
	}
}
