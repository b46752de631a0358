package awsiam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

const exposedID = "AKIAIOSFODNN7EXAMPLE"

// trail is a CloudTrail with events as AWS records them: moto has no LookupEvents.
type trail struct {
	// events are the CloudTrailEvent of each, by region; refused is the error code that it answers with instead.
	events  map[string][]string
	refused string
	// lastUsed is IAM's answer; that it knows no such key when empty.
	lastUsed string
	asked    []map[string]any
}

var scope = regexp.MustCompile(`/([a-z0-9-]+)/(cloudtrail|iam)/aws4_request`)

func (c *trail) account(t *testing.T) *Account {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Target") != "CloudTrail_20131101.LookupEvents" {
			if c.lastUsed == "" {
				rw.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(rw, `<ErrorResponse><Error><Code>NoSuchEntity</Code></Error></ErrorResponse>`)
				return
			}
			_, _ = fmt.Fprintf(rw, `<GetAccessKeyLastUsedResponse><GetAccessKeyLastUsedResult><AccessKeyLastUsed>%s</AccessKeyLastUsed></GetAccessKeyLastUsedResult></GetAccessKeyLastUsedResponse>`, c.lastUsed)
			return
		}
		var in map[string]any
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		assert.NoError(t, json.Unmarshal(body, &in))
		region := scope.FindStringSubmatch(r.Header.Get("Authorization"))[1]
		in["region"] = region
		c.asked = append(c.asked, in)
		rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if c.refused != "" {
			rw.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(rw, `{"__type":%q,"message":"no"}`, c.refused)
			return
		}
		page := 0
		if token, ok := in["NextToken"].(string); ok {
			_, _ = fmt.Sscan(token, &page)
		}
		all, events := c.events[region], []map[string]any{}
		end := min(len(all), 50*(page+1))
		for n := 50 * page; n < end; n++ {
			events = append(events, map[string]any{"EventId": fmt.Sprint(region, n), "EventTime": 1772366400, "CloudTrailEvent": all[n]})
		}
		out := map[string]any{"Events": events}
		if end < len(all) {
			out["NextToken"] = fmt.Sprint(page + 1)
		}
		assert.NoError(t, json.NewEncoder(rw).Encode(out))
	}))
	t.Cleanup(server.Close)
	return &Account{Account: awsaccount.Account{Region: "eu-central-1", Endpoint: server.URL}}
}

func (c *trail) uses(t *testing.T, since time.Time) (key.Uses, error) {
	t.Helper()
	return (&issuer{account: c.account(t), config: Config{Principal: "payments-api"}}).Uses(t.Context(), key.Ref{KeyID: exposedID}, since)
}

// record is an event as CloudTrail's user guide shows them.
func recorded(at time.Time, service, name, region, from, refused string, more string) string {
	if refused != "" {
		more += fmt.Sprintf(`,"errorCode":%q,"errorMessage":"User: arn:aws:iam::111122223333:user/payments-api is not authorized"`, refused)
	}
	return fmt.Sprintf(`{"eventVersion":"1.08","userIdentity":{"type":"IAMUser","principalId":"AIDAEXAMPLE","arn":"arn:aws:iam::111122223333:user/payments-api",
		"accountId":"111122223333","accessKeyId":%q,"userName":"payments-api"},"eventTime":%q,"eventSource":"%s.amazonaws.com","eventName":%q,"awsRegion":%q,
		"sourceIPAddress":%q,"userAgent":"aws-cli/2.15","requestParameters":null%s,"readOnly":true,"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333"}`,
		exposedID, at.UTC().Format(time.RFC3339), service, name, region, from, more)
}

func TestCloudTrailTellsWhoUsedAKey(t *testing.T) {
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	session := `,"responseElements":{"credentials":{"accessKeyId":"ASIAEXAMPLE","expiration":"Mar 1, 2026, 12:00:00 AM","sessionToken":"secret-session"}}`
	c := trail{events: map[string][]string{
		"eu-central-1": {
			recorded(at, "s3", "ListBuckets", "eu-central-1", "10.0.0.7", "", ""),
			recorded(at.Add(time.Minute), "s3", "ListBuckets", "eu-central-1", "10.0.0.7", "", ""),
			recorded(at, "ec2", "DescribeInstances", "eu-central-1", "192.0.2.1", "Client.UnauthorizedOperation", ""),
			recorded(at, "sts", "GetSessionToken", "eu-central-1", "192.0.2.1", "", session),
			"no JSON",
			strings.ReplaceAll(recorded(at, "s3", "ListBuckets", "eu-central-1", "10.0.0.7", "", ""), exposedID, "AKIAOFSOMEBODYELSE00"),
		},
		"us-east-1": {recorded(at, "iam", "CreateUser", "us-east-1", "192.0.2.1", "AccessDenied", "")},
	}}
	uses, err := c.uses(t, at.Add(-24*time.Hour))
	require.NoError(t, err)
	use := func(action, region, from, refused string, count int, last time.Time) key.Use {
		return key.Use{KeyID: exposedID, First: at, Last: last, Count: count, Action: action, Principal: "payments-api", Source: from, Region: region, Error: refused}
	}
	assert.ElementsMatch(t, []key.Use{
		use("s3:ListBuckets", "eu-central-1", "10.0.0.7", "", 2, at.Add(time.Minute)),
		use("ec2:DescribeInstances", "eu-central-1", "192.0.2.1", "Client.UnauthorizedOperation", 1, at),
		use("sts:GetSessionToken", "eu-central-1", "192.0.2.1", "", 1, at),
		use("iam:CreateUser", "us-east-1", "192.0.2.1", "AccessDenied", 1, at),
	}, uses.List)
	assert.Contains(t, uses.Outlives, "1 by sts:GetSessionToken")
	var policy map[string]any
	require.NoError(t, json.Unmarshal([]byte(uses.Deny), &policy))
	assert.Contains(t, uses.Deny, `"DateLessThan":{"aws:TokenIssueTime":"20`)
	text := strings.Join(uses.Unseen, "\n")
	assert.Contains(t, text, "no data events")
	assert.Contains(t, text, "up to 15 minutes late")
	assert.Contains(t, text, "Records that could not be read: 1.")
	assert.Contains(t, text, "Only these regions were looked at: eu-central-1, us-east-1.")
	assert.Contains(t, text, "IAM does not say when the key was used last")
	require.Len(t, c.asked, 2)
	assert.Equal(t, []any{map[string]any{"AttributeKey": "AccessKeyId", "AttributeValue": exposedID}}, c.asked[0]["LookupAttributes"])
}

func TestWhatCloudTrailDoesNotTellIsSaid(t *testing.T) {
	since := time.Now().Add(-24 * time.Hour)
	t.Run("a right that is lacking, and the last use is told", func(t *testing.T) {
		last := time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Second)
		c := trail{refused: "AccessDeniedException", lastUsed: `<LastUsedDate>` + last.Format(time.RFC3339) + `</LastUsedDate><ServiceName>s3</ServiceName><Region>ap-south-1</Region>`}
		uses, err := c.uses(t, since)
		require.NoError(t, err)
		assert.Equal(t, []key.Use{{KeyID: exposedID, First: last, Last: last, Count: 1, Action: "last use, of s3", Region: "ap-south-1"}}, uses.List)
		text := strings.Join(uses.Unseen, "\n")
		assert.Contains(t, text, "CloudTrail of eu-central-1 was not asked: allow the worker cloudtrail:LookupEvents")
		assert.Contains(t, text, "CloudTrail of ap-south-1 was not asked", "IAM names a region more")
	})
	t.Run("the time before its history", func(t *testing.T) {
		uses, err := (&trail{}).uses(t, time.Time{})
		require.NoError(t, err)
		assert.Contains(t, strings.Join(uses.Unseen, "\n"), "CloudTrail's event history goes back to")
	})
	t.Run("more calls than are read, of which the latest come first", func(t *testing.T) {
		c := trail{events: map[string][]string{}}
		for n := range 1200 {
			c.events["us-east-1"] = append(c.events["us-east-1"], recorded(time.Now().Add(-time.Duration(n)*time.Second), "s3", "ListBuckets", "us-east-1", "10.0.0.7", "", ""))
		}
		uses, err := c.uses(t, since)
		require.NoError(t, err)
		require.Len(t, uses.List, 1)
		assert.Equal(t, 1000, uses.List[0].Count)
		assert.Contains(t, strings.Join(uses.Unseen, "\n"), "Of us-east-1 only the latest 1000 calls were read.")
	})
	t.Run("a service that is not there", func(t *testing.T) {
		uses, err := (&trail{refused: "InternalFailure"}).uses(t, since)
		require.NoError(t, err)
		assert.Contains(t, strings.Join(uses.Unseen, "\n"), "CloudTrail of us-east-1 has no answer")
	})
	t.Run("one that is asked too often is asked again", func(t *testing.T) {
		_, err := (&trail{refused: "ThrottlingException"}).uses(t, since)
		require.ErrorIs(t, err, providers.ErrThrottled)
	})
}

// An endpoint that poses as CloudTrail tells nothing of a key.
func TestHostileCloudTrail(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEOFAWORKER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-key-of-the-worker")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	providertest.Hostile(t, providertest.HostileSetup{Content: true, Open: func(t providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
		address, taken := r.Serve(t, secret.Bundle{})
		i := &issuer{account: &Account{Account: awsaccount.Account{Region: "us-east-1", Endpoint: address}}, config: Config{Principal: "payments-api"}}
		return func(ctx context.Context) (any, error) {
			uses, err := i.Uses(ctx, key.Ref{KeyID: exposedID}, time.Now().Add(-time.Hour))
			if text := strings.Join(uses.Unseen, "\n"); err == nil && strings.Contains(text, "CloudTrail of us-east-1 has no answer") {
				err = errors.New("it has no answer")
			}
			return uses, err
		}, taken
	}})
	for _, told := range providertest.Tellings(secret.Bundle{}) {
		quoted, err := json.Marshal(told)
		require.NoError(t, err)
		quoted = quoted[1 : len(quoted)-1]
		text := recorded(time.Now(), "s3", "ListBuckets", "eu-central-1", "10.0.0.7", "AccessDenied", "")
		for _, place := range []string{`"s3.amazonaws.com"`, `"ListBuckets"`, `"eu-central-1"`, `"10.0.0.7"`, `"AccessDenied"`, `"payments-api"`} {
			c := trail{events: map[string][]string{"eu-central-1": {strings.Replace(text, place, `"`+string(quoted)+`"`, 1)}}}
			uses, err := c.uses(t, time.Now().Add(-time.Hour))
			require.NoError(t, err)
			providertest.AssertUntold(t, fmt.Sprintf("%+v", uses.List), secret.Bundle{})
		}
	}
}

func FuzzCloudTrailEvent(f *testing.F) {
	f.Add(recorded(time.Unix(1772366400, 0), "s3", "ListBuckets", "eu-central-1", "10.0.0.7", "AccessDenied", ""))
	f.Add(`{"eventTime":"2026-03-01T12:00:00Z","userIdentity":{"accessKeyId":"AKIAIOSFODNN7EXAMPLE"},"sourceIPAddress":"fe80::1%eth0"}`)
	shown := regexp.MustCompile(`^[A-Za-z0-9 :.'-]*$`)
	f.Fuzz(func(t *testing.T, text string) {
		r := record{account: new(Account), user: "payments-api", seen: map[string]bool{}, derived: map[string]int{}}
		r.count(text, exposedID, time.Time{})
		list, _ := r.tally.List()
		assert.LessOrEqual(t, len(list)+r.unreadable, 1)
		for _, u := range list {
			for _, told := range []string{u.Action, u.Principal, u.Source, u.Region, u.Error} {
				assert.Regexp(t, shown, told)
				assert.LessOrEqual(t, len(told), 100)
			}
			_, err := json.Marshal(u)
			assert.NoError(t, err, "a history takes it")
		}
	})
}
