package awsiam

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/providers"
)

var _ providers.AuditLog = (*issuer)(nil)

// CloudTrail's event history, as AWS documents it for LookupEvents: 90 days, 50 events a page, two requests a second.
const (
	keptFor      = 90 * 24 * time.Hour
	pageOfEvents = 50
	betweenPages = 600 * time.Millisecond
	// maxEventPages bounds what is read of a region; the latest come first.
	maxEventPages = 20
)

// unseen is what CloudTrail's event history never tells.
var unseen = []string{
	"CloudTrail's event history has no data events, such as reads of S3 objects or calls of Lambda functions: a trail that records them has.",
	"CloudTrail tells of a call up to 15 minutes late: look again later.",
	"Calls in other accounts, by a role that was assumed, are in the event history of those.",
}

// Uses implements providers.AuditLog: by CloudTrail's event history of the account's region, of the one where its global services are, and of those
// that reviewRegions names, and by when IAM says that the key was used last. A right that the worker lacks is no error: it is said what
// is not known.
func (i *issuer) Uses(ctx context.Context, k key.Ref, since time.Time) (key.Uses, error) {
	uses := key.Uses{Teller: "CloudTrail's event history", Unseen: slices.Clone(unseen), Deny: denyPolicy(time.Now())}
	if !keyIDForm.MatchString(k.KeyID) {
		uses.Unseen = append(uses.Unseen, "AWS has no key whose ID is of this form.")
		return uses, ctx.Err()
	}
	config, err := i.account.Config(ctx)
	if err != nil {
		return key.Uses{}, err
	}
	say := func(format string, args ...any) { uses.Unseen = append(uses.Unseen, fmt.Sprintf(format, args...)) }
	begin := since
	if oldest := time.Now().Add(-keptFor); since.Before(oldest) {
		begin = oldest
		say("CloudTrail's event history goes back to %s.", oldest.UTC().Format(time.RFC3339))
	}
	regions := append([]string{config.Region, globalRegion(config.Region)}, i.account.ReviewRegions...)
	last, err := i.lastUse(ctx, config, k)
	switch {
	case passing(err):
		return key.Uses{}, err
	case err != nil:
		say("IAM does not say when the key was used last (%s).", err)
	case last.region != "":
		regions = append(regions, last.region)
	}
	slices.Sort(regions)
	regions = slices.Compact(regions)
	r := record{account: i.account, user: i.config.Principal, seen: map[string]bool{}, derived: map[string]int{}}
	for _, region := range regions {
		err := r.read(ctx, config, region, k.KeyID, begin)
		switch {
		case passing(err) && len(r.seen) == 0:
			return key.Uses{}, err
		case passing(err): // what was read is told
			say("CloudTrail of %s was not read to its end: it was busy, or time was up.", region)
		case errors.Is(err, providers.ErrDenied):
			say("CloudTrail of %s was not asked: allow the worker cloudtrail:LookupEvents, see docs/aws-review-policy.json.", region)
		case err != nil:
			say("CloudTrail of %s has no answer (%s).", region, err)
		}
	}
	for _, region := range r.cut {
		say("Of %s only the latest %d calls were read.", region, maxEventPages*pageOfEvents)
	}
	if r.unreadable > 0 {
		say("Records that could not be read: %d.", r.unreadable)
	}
	say("Only these regions were looked at: %s. Name others in the account's reviewRegions.", strings.Join(regions, ", "))
	uses.List, uses.Omitted = r.tally.List()
	if newest := slices.MaxFunc(append(uses.List, key.Use{}), func(a, b key.Use) int { return a.Last.Compare(b.Last) }); last.at.After(newest.Last.Add(15*time.Minute)) && !last.at.Before(since) {
		uses.List = append(uses.List, key.Use{KeyID: k.KeyID, First: last.at, Last: last.at, Count: 1, Action: "last use, of " + last.service, Region: last.region})
	}
	uses.Outlives = r.outlives()
	return uses, nil
}

// passing tells errors after which somebody should ask again.
func passing(err error) bool {
	return errors.Is(err, providers.ErrThrottled) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// globalRegion is where the calls of services without a region, such as IAM, are recorded: one for each partition of AWS.
func globalRegion(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "cn-north-1"
	case strings.HasPrefix(region, "us-gov-"):
		return "us-gov-west-1"
	}
	return "us-east-1"
}

// denyPolicy ends the sessions that were issued before a time. No access key has aws:TokenIssueTime, so that it ends none.
func denyPolicy(before time.Time) string {
	return `{"Version":"2012-10-17","Statement":[{"Sid":"EndSessionsOfAnExposedKey","Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:TokenIssueTime":"` +
		before.UTC().Format(time.RFC3339) + `"}}}]}`
}

// lastUse is what IAM says of the last use of a key.
type lastUse struct {
	at              time.Time
	service, region string
}

func (i *issuer) lastUse(ctx context.Context, config aws.Config, k key.Ref) (lastUse, error) {
	out, err := iam.NewFromConfig(config).GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: &k.KeyID})
	if err != nil {
		return lastUse{}, awsaccount.Error("asking for the last use of a key", err)
	}
	last := out.AccessKeyLastUsed
	if last == nil || last.LastUsedDate == nil {
		return lastUse{}, nil
	}
	use := lastUse{at: *last.LastUsedDate, service: "a service"}
	if s := aws.ToString(last.ServiceName); ownNameForm.MatchString(s) {
		use.service = s
	}
	if r := aws.ToString(last.Region); regionForm.MatchString(r) {
		use.region = r
	}
	return use, nil
}

// record gathers what CloudTrail tells.
type record struct {
	account    *Account
	user       string
	tally      key.Tally
	seen       map[string]bool // event IDs
	derived    map[string]int  // sessions, by the call that made them
	cut        []string        // regions that were not read to the end
	unreadable int
}

// read reads the latest events of a region.
func (r *record) read(ctx context.Context, config aws.Config, region, keyID string, since time.Time) error {
	client := cloudtrail.NewFromConfig(config, func(o *cloudtrail.Options) { o.Region = region })
	in := &cloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyAccessKeyId, AttributeValue: &keyID}},
		StartTime:        &since, MaxResults: aws.Int32(pageOfEvents),
	}
	pause := betweenPages
	if r.account.OnThisHost("CloudTrail") {
		pause = time.Millisecond // a double
	}
	for page, failed := 1, 0; ; {
		out, err := client.LookupEvents(ctx, in)
		if err == nil && out.Events == nil {
			err = errors.New("the reply has no events, and no empty list of them") // silence must not look like an answer
		}
		switch err = awsaccount.Error("asking CloudTrail for the uses of a key", err); {
		case err == nil:
			for _, e := range out.Events {
				r.add(e, keyID, since)
			}
			if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
				return nil
			}
			if page == maxEventPages {
				r.cut = append(r.cut, region)
				return nil
			}
			page, failed = page+1, 0
		case passing(err), errors.Is(err, providers.ErrDenied), errors.Is(err, providers.ErrInvalid), failed == 2:
			return err
		default: // a page that got lost shall not cost all that come after it
			failed++
		}
		if err := patience.Pause(ctx, pause); err != nil {
			return err
		}
	}
}

// event is what is read of an event: CloudTrail documents many more fields.
type event struct {
	EventTime    time.Time `json:"eventTime"`
	EventSource  string    `json:"eventSource"`
	EventName    string    `json:"eventName"`
	Region       string    `json:"awsRegion"`
	Source       string    `json:"sourceIPAddress"`
	ErrorCode    string    `json:"errorCode"`
	UserIdentity struct {
		AccessKeyID string `json:"accessKeyId"`
		UserName    string `json:"userName"`
	} `json:"userIdentity"`
	ResponseElements *struct {
		Credentials *struct{} `json:"credentials"`
	} `json:"responseElements"`
}

// add counts an event, once.
func (r *record) add(e types.Event, keyID string, since time.Time) {
	id := aws.ToString(e.EventId)
	if id != "" && r.seen[id] {
		return // another region has told of it
	}
	r.seen[id] = true
	r.count(aws.ToString(e.CloudTrailEvent), keyID, since)
}

// count counts an event by its text.
func (r *record) count(text, keyID string, since time.Time) {
	var whole event
	if err := json.Unmarshal([]byte(text), &whole); err != nil || whole.EventTime.IsZero() {
		r.unreadable++
		return
	}
	if whole.UserIdentity.AccessKeyID != keyID || whole.EventTime.Before(since) {
		return
	}
	use := key.Use{KeyID: keyID, Action: whole.action(), Source: whole.source()}
	if regionForm.MatchString(whole.Region) {
		use.Region = whole.Region
	}
	if whole.UserIdentity.UserName == r.user {
		use.Principal = r.user
	}
	if whole.ErrorCode != "" {
		use.Error = "refused"
		if awsaccount.Documented(strings.TrimPrefix(whole.ErrorCode, "Client.")) {
			use.Error = whole.ErrorCode
		}
	} else if whole.ResponseElements != nil && whole.ResponseElements.Credentials != nil && len(r.derived) < 10 {
		r.derived[use.Action]++
	}
	r.tally.Add(use, whole.EventTime)
}

var (
	serviceForm = regexp.MustCompile(`^([a-z][a-z0-9-]{0,30})\.amazonaws\.com$`)
	// actionForm is that of AWS's operations: some end in the date of their version.
	actionForm = regexp.MustCompile(`^[A-Z][A-Za-z]{1,59}([0-9]{8}(v[0-9]{1,2})?|V?[0-9])?$`)
	regionForm = regexp.MustCompile(`^[a-z]{2}(-[a-z]{3,9}){1,3}-[0-9]{1,2}$`)
)

func (e event) action() string {
	service := serviceForm.FindStringSubmatch(e.EventSource)
	if service == nil || !actionForm.MatchString(e.EventName) {
		return "a call whose name is none of AWS's"
	}
	return service[1] + ":" + e.EventName
}

// source is an address, or a service of AWS that called for somebody.
func (e event) source() string {
	address, err := netip.ParseAddr(e.Source)
	switch {
	case err == nil && address.Zone() == "":
		return address.String()
	case e.Source == "AWS Internal", serviceForm.MatchString(e.Source):
		return e.Source
	}
	return ""
}

// outlives says which sessions outlive the key.
func (r *record) outlives() string {
	var made []string
	for _, action := range slices.Sorted(maps.Keys(r.derived)) {
		made = append(made, fmt.Sprintf("%d by %s", r.derived[action], action))
	}
	return "Sessions that were derived from an AWS key (GetSessionToken, GetFederationToken, AssumeRole) outlive it, for up to 36 hours. Known since then: " +
		cmp.Or(strings.Join(made, ", "), "none") + ". To end them attach this policy to the user, and to each role that was assumed; it ends no access key."
}
