package awsiam

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/moto"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

func TestListerOnMoto(t *testing.T) {
	w := newWorld(t)
	actions := map[providertest.Op]string{providertest.OpPrincipals: "iam:ListUsers", providertest.OpList: "iam:ListAccessKeys"}
	providertest.Lister(t, providertest.ListerSetup{Open: func(t providertest.T) providertest.ListerWorld {
		w.clear(t)
		return providertest.ListerWorld{
			Lister: w.account, Names: w.names(t),
			Principal: func(name string, keys int) providers.Issuer {
				w.User(name, "")
				for range keys {
					w.AccessKey(name)
				}
				return &issuer{account: w.account, config: Config{Principal: name}}
			},
			Faults: providertest.Faults{
				Throttle: func(op providertest.Op) { w.Throttle(actions[op], 0, 1) },
				Hang:     func(op providertest.Op) func() { return w.Hang(actions[op]) },
			},
		}
	}})
}

func (w *world) names(t providertest.T) []string {
	out, err := w.IAM().ListUsers(t.Context(), &iam.ListUsersInput{})
	require.NoError(t, err)
	var names []string
	for _, u := range out.Users {
		names = append(names, *u.UserName)
	}
	return names
}

// clear removes the users of the case before.
func (w *world) clear(t providertest.T) {
	for _, name := range w.names(t) {
		if name == "admin" || name == "worker" {
			continue
		}
		for id := range w.AccessKeys(name) {
			_, err := w.IAM().DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{UserName: &name, AccessKeyId: &id})
			require.NoError(t, err)
		}
		_, err := w.IAM().DeleteUser(t.Context(), &iam.DeleteUserInput{UserName: &name})
		require.NoError(t, err)
	}
}

// A worker has just the rights that a policy gives it.
func (w *world) accountOf(t *testing.T, policy string) *Account {
	t.Helper()
	name := fmt.Sprintf("worker-%d", w.users.Add(1))
	w.User(name, policy)
	w.Environment(t, w.AccessKey(name))
	account := &Account{}
	_, err := account.Config(t.Context())
	require.NoError(t, err)
	return account
}

func TestProbeOnMoto(t *testing.T) {
	w := newWorld(t)
	in := providers.ProbeInput{Principals: []string{"payments-*", "an/other/issuer's"}, Scans: true}
	all := []string{"iam:ListAccessKeys", "iam:GetAccessKeyLastUsed", "iam:ListUsers"}

	probed, err := w.accountOf(t, moto.Allow(all...)).Probe(t.Context(), providers.Environment{}, in)
	require.NoError(t, err)
	assert.Empty(t, probed.Lacks)
	assert.Contains(t, probed.As, ":user/worker-")
	require.Len(t, probed.Untried, 1)
	assert.Contains(t, probed.Untried[0], "iam:DeleteAccessKey")

	for _, lacking := range all {
		var rest []string
		for _, a := range all {
			if a != lacking {
				rest = append(rest, a)
			}
		}
		probed, err := w.accountOf(t, moto.Allow(rest...)).Probe(t.Context(), providers.Environment{}, in)
		require.NoError(t, err)
		require.Len(t, probed.Lacks, 1, lacking)
		assert.Contains(t, probed.Lacks[0], lacking+" on")
	}
	in.Scans = false
	probed, err = w.accountOf(t, moto.Allow(all[:2]...)).Probe(t.Context(), providers.Environment{}, in)
	require.NoError(t, err)
	assert.Empty(t, probed.Lacks, "who never scans need not list users")

	w.Environment(t, moto.Key{ID: "AKIAIOSFODNN7EXAMPLE", Secret: "wrong"})
	_, err = (&Account{}).Probe(t.Context(), providers.Environment{}, in)
	require.ErrorIs(t, err, providers.ErrDenied)
	for _, call := range w.Calls() {
		if strings.HasPrefix(call.Action, "iam:") && !strings.HasPrefix(call.Action, "iam:List") && !strings.HasPrefix(call.Action, "iam:Get") {
			assert.Equal(t, "iam:SimulatePrincipalPolicy", call.Action, "a probe changes nothing")
		}
	}
}

// So that doctor tells it.
func TestAProbeTellsThatTheClockIsWrong(t *testing.T) {
	w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Date", time.Now().Add(-5*time.Minute).UTC().Format(http.TimeFormat))
		rw.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(w.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	account := &Account{Account: awsaccount.Account{Region: moto.Region, Endpoint: w.URL}}
	_, err := account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.ErrorContains(t, err, "asking AWS who the worker is: the clock of this worker is")
	require.ErrorContains(t, err, "ahead of AWS's: set it right")
}

// fakeIAM answers as IAM's API reference says, where moto does not: pages of users, and the policy simulator.
func fakeIAM(t *testing.T, answers func(action string, form map[string][]string) string) *Account {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.ParseForm() != nil {
			http.Error(rw, "no form", http.StatusBadRequest)
			return
		}
		rw.Header().Set("Content-Type", "text/xml")
		action := r.PostForm.Get("Action")
		body := answers(action, r.PostForm)
		if body == "" {
			rw.WriteHeader(http.StatusNotFound)
			body = `<Error><Code>NoSuchEntity</Code><Message>none</Message></Error>`
			_, _ = fmt.Fprintf(rw, `<ErrorResponse>%s</ErrorResponse>`, body)
			return
		}
		_, _ = fmt.Fprintf(rw, `<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>`, action, body)
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	return &Account{Account: awsaccount.Account{Region: "eu-central-1", Endpoint: server.URL}}
}

func TestUsersComeInPages(t *testing.T) {
	account := fakeIAM(t, func(action string, form map[string][]string) string {
		if action != "ListUsers" || form["MaxItems"][0] != "100" {
			return ""
		}
		page := form["Marker"]
		switch {
		case page == nil:
			return `<Users><member><UserName>a</UserName></member><member><UserName>b</UserName></member></Users><IsTruncated>true</IsTruncated><Marker>m1</Marker>`
		case page[0] == "m1": // a page may be empty
			return `<Users/><IsTruncated>true</IsTruncated><Marker>m2</Marker>`
		}
		return `<Users><member><UserName>c</UserName></member></Users><IsTruncated>false</IsTruncated>`
	})
	var all []string
	for page := ""; ; {
		names, next, err := account.Principals(t.Context(), page)
		require.NoError(t, err)
		all = append(all, names...)
		if page = next; page == "" {
			break
		}
	}
	assert.Equal(t, []string{"a", "b", "c"}, all)
}

func TestTheSimulatorIsAsked(t *testing.T) {
	var source, resource string
	account := fakeIAM(t, func(action string, form map[string][]string) string {
		switch action {
		case "GetCallerIdentity":
			return `<Arn>arn:aws:sts::111122223333:assumed-role/keyturn/session</Arn>`
		case "SimulatePrincipalPolicy":
			source, resource = form["PolicySourceArn"][0], form["ResourceArns.member.1"][0]
			return `<EvaluationResults>
				<member><EvalActionName>iam:CreateAccessKey</EvalActionName><EvalResourceName>x</EvalResourceName><EvalDecision>allowed</EvalDecision></member>
				<member><EvalActionName>iam:DeleteAccessKey</EvalActionName><EvalResourceName>arn:x</EvalResourceName><EvalDecision>implicitDeny</EvalDecision></member>
			</EvaluationResults>`
		}
		return ""
	})
	probed, err := account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{Principals: []string{"payments-*"}})
	require.NoError(t, err)
	assert.Equal(t, "arn:aws:iam::111122223333:role/keyturn", source)
	assert.Equal(t, "arn:aws:iam::111122223333:user/payments-"+nobody, resource)
	require.Len(t, probed.Lacks, 1)
	assert.Contains(t, probed.Lacks[0], "iam:DeleteAccessKey on arn:x")
	assert.Empty(t, probed.Untried)
}

func TestPolicySource(t *testing.T) {
	t.Parallel()
	for arn, want := range map[string]string{
		"arn:aws:sts::111122223333:assumed-role/keyturn/i-1":     "arn:aws:iam::111122223333:role/keyturn",
		"arn:aws-cn:sts::111122223333:assumed-role/keyturn/i-1":  "arn:aws-cn:iam::111122223333:role/keyturn",
		"arn:aws:iam::111122223333:user/keyturn":                 "arn:aws:iam::111122223333:user/keyturn",
		"arn:aws:iam::111122223333:root":                         "",
		"arn:aws:sts::111122223333:federated-user/somebody-else": "",
	} {
		source, ok := policySource(arn)
		assert.Equal(t, want != "", ok, arn)
		if ok {
			assert.Equal(t, want, source)
		}
	}
}

func TestAnUnreachableAccount(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	account := &Account{Account: awsaccount.Account{Region: "eu-central-1", Endpoint: "http://127.0.0.1:1"}}
	_, err := account.Probe(t.Context(), providers.Environment{}, providers.ProbeInput{})
	require.Error(t, err)
	assert.False(t, errors.Is(err, providers.ErrDenied))
	_, _, err = account.Principals(t.Context(), "")
	require.Error(t, err)
}
