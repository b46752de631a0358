package awsiam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/outside"
)

// policy is one that a user has, by itself or by a group.
type policy struct {
	name, arn string // no ARN: it is inline
	via       string
	// admin is how it makes its bearer an administrator; empty when it does not.
	admin string
}

func (p policy) String() string {
	name := p.name
	if p.arn != "" {
		name = p.arn
	}
	return awsaccount.Name(&name) + p.via
}

// CheckRights implements providers.RightsChecker. A key has all rights of its user, so scopes name the
// policies, by name or ARN, that the user may have. Permissions boundaries and conditions can only take
// rights away, and are not looked at.
func (i *issuer) CheckRights(ctx context.Context, scopes []string) ([]string, error) {
	objections, err := i.checkIdentity(ctx)
	if err != nil {
		return nil, err
	}
	policies, err := i.policies(ctx)
	if err != nil {
		return nil, err
	}
	var beyond []string
	for _, p := range policies {
		if !slices.Contains(scopes, p.name) && (p.arn == "" || !slices.Contains(scopes, p.arn)) {
			beyond = append(beyond, p.String())
		}
		if p.admin != "" {
			objections = append(objections, fmt.Sprintf("user %q is an administrator: policy %s %s; give it the rights that it needs", i.config.Principal, p, p.admin))
		}
	}
	if len(beyond) > 0 {
		objections = append(objections, fmt.Sprintf("user %q has policies that scopes does not name: %s; name them under scopes, or take them from the user",
			i.config.Principal, strings.Join(beyond, ", ")))
	}
	return objections, nil
}

// checkIdentity objects when the worker would rotate the key that it works with, or is root.
func (i *issuer) checkIdentity(ctx context.Context) ([]string, error) {
	c, err := i.account.Config(ctx)
	if err != nil {
		return nil, err
	}
	arn, err := awsaccount.Caller(ctx, c)
	if err != nil {
		return nil, err
	}
	user, root := userOf(arn)
	switch {
	case root:
		return []string{"the worker runs as root of the account: give it a role with the policy of docs/aws.md"}, nil
	case strings.EqualFold(user, i.config.Principal): // names of users are not told apart by case
		return []string{fmt.Sprintf("the worker runs as user %q itself: a rotation would take away the key that it works with; give the worker an identity of its own", user)}, nil
	}
	return nil, nil
}

// policies are all that the user has: attached and inline, its own and those of its groups.
func (i *issuer) policies(ctx context.Context) ([]policy, error) {
	client, err := i.iam(ctx)
	if err != nil {
		return nil, err
	}
	r := rights{client: client, user: i.config.Principal}
	r.ofUser(ctx)
	r.ofGroups(ctx)
	return r.found, r.err
}

// maxPolicies bounds what a user has. IAM's quotas keep an honest one far below.
const maxPolicies = 1000

// rights collects policies. After an error it asks nothing more.
type rights struct {
	client *iam.Client
	user   string
	found  []policy
	err    error
}

func (r *rights) ok(doing string, err error) bool {
	if err != nil && r.err == nil {
		r.err = awsaccount.Error(fmt.Sprintf("%s of user %q", doing, r.user), err)
	}
	return r.err == nil
}

// add judges a policy by its document, as IAM gives it: JSON, URL-encoded.
func (r *rights) add(p policy, document *string) error {
	var err error
	if p.admin, err = administrator(aws.ToString(document), r.user); err != nil {
		return fmt.Errorf("reading policy %s: %w", p, err)
	}
	if r.found = append(r.found, p); len(r.found) > maxPolicies {
		return fmt.Errorf("there are more than %d policies", maxPolicies)
	}
	return nil
}

func (r *rights) ofUser(ctx context.Context) {
	attached := iam.NewListAttachedUserPoliciesPaginator(r.client, &iam.ListAttachedUserPoliciesInput{UserName: &r.user})
	if !r.ok("reading attached policies", awsaccount.Pages(ctx, attached, func(page *iam.ListAttachedUserPoliciesOutput) error {
		return r.managed(ctx, "", page.AttachedPolicies)
	})) {
		return
	}
	inline := iam.NewListUserPoliciesPaginator(r.client, &iam.ListUserPoliciesInput{UserName: &r.user})
	r.ok("reading inline policies", awsaccount.Pages(ctx, inline, func(page *iam.ListUserPoliciesOutput) error {
		for _, name := range page.PolicyNames {
			out, err := r.client.GetUserPolicy(ctx, &iam.GetUserPolicyInput{UserName: &r.user, PolicyName: &name})
			if err != nil {
				return err
			}
			if err := r.add(policy{name: name}, out.PolicyDocument); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (r *rights) ofGroups(ctx context.Context) {
	if r.err != nil {
		return
	}
	groups := iam.NewListGroupsForUserPaginator(r.client, &iam.ListGroupsForUserInput{UserName: &r.user})
	r.ok("listing groups", awsaccount.Pages(ctx, groups, func(page *iam.ListGroupsForUserOutput) error {
		for _, g := range page.Groups {
			if r.ofGroup(ctx, aws.ToString(g.GroupName)); r.err != nil {
				return r.err
			}
		}
		return nil
	}))
}

func (r *rights) ofGroup(ctx context.Context, group string) {
	called := awsaccount.Name(&group)
	via := " (by group " + called + ")"
	attached := iam.NewListAttachedGroupPoliciesPaginator(r.client, &iam.ListAttachedGroupPoliciesInput{GroupName: &group})
	if !r.ok("reading policies of group "+called, awsaccount.Pages(ctx, attached, func(page *iam.ListAttachedGroupPoliciesOutput) error {
		return r.managed(ctx, via, page.AttachedPolicies)
	})) {
		return
	}
	inline := iam.NewListGroupPoliciesPaginator(r.client, &iam.ListGroupPoliciesInput{GroupName: &group})
	r.ok("reading inline policies of group "+called, awsaccount.Pages(ctx, inline, func(page *iam.ListGroupPoliciesOutput) error {
		for _, name := range page.PolicyNames {
			out, err := r.client.GetGroupPolicy(ctx, &iam.GetGroupPolicyInput{GroupName: &group, PolicyName: &name})
			if err != nil {
				return err
			}
			if err := r.add(policy{name: name, via: via}, out.PolicyDocument); err != nil {
				return err
			}
		}
		return nil
	}))
}

// managed reads of each managed policy the version that is in force.
func (r *rights) managed(ctx context.Context, via string, policies []types.AttachedPolicy) error {
	for _, attached := range policies {
		p := policy{name: aws.ToString(attached.PolicyName), arn: aws.ToString(attached.PolicyArn), via: via}
		found, err := r.client.GetPolicy(ctx, &iam.GetPolicyInput{PolicyArn: &p.arn})
		if err != nil {
			return err
		}
		if found.Policy == nil {
			return fmt.Errorf("reading policy %s: the answer has none", p)
		}
		version, err := r.client.GetPolicyVersion(ctx, &iam.GetPolicyVersionInput{PolicyArn: &p.arn, VersionId: found.Policy.DefaultVersionId})
		if err != nil {
			return err
		}
		if version.PolicyVersion == nil {
			return fmt.Errorf("reading policy %s: the answer has no version", p)
		}
		if err := r.add(p, version.PolicyVersion.Document); err != nil {
			return err
		}
	}
	return nil
}

// texts is a string or a list of them, as IAM's policy language allows.
type texts []string

func (t *texts) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = texts{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

type statement struct {
	Effect    string
	Action    texts
	NotAction texts
	Resource  texts
	// NotResource excludes some of all resources.
	NotResource texts
}

// statements is one or a list.
type statements []statement

func (s *statements) UnmarshalJSON(data []byte) error {
	var one statement
	if json.Unmarshal(data, &one) == nil {
		*s = statements{one}
		return nil
	}
	return json.Unmarshal(data, (*[]statement)(s))
}

// takeAll are actions by which one takes all other rights, on a user of one's choice. A pattern that covers one of them
// makes an administrator: "*" does, and so does "iam:*".
var takeAll = []string{"iam:PutUserPolicy", "iam:AttachUserPolicy"}

// administrator says how a policy document makes its bearer, the user, an administrator; empty when it does not.
func administrator(document, user string) (string, error) {
	text, err := url.PathUnescape(document)
	if err != nil {
		return "", fmt.Errorf("decoding it: %w", err)
	}
	var parsed struct{ Statement statements }
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		return "", fmt.Errorf("decoding it: %w", err)
	}
	for _, s := range parsed.Statement {
		if s.Effect != "Allow" || !s.onUsers(user) {
			continue
		}
		if len(s.NotAction) > 0 {
			return "allows all actions but some on all users", nil
		}
		for _, pattern := range s.Action {
			if slices.ContainsFunc(takeAll, func(action string) bool { return matches(strings.ToLower(pattern), strings.ToLower(action)) }) {
				return fmt.Sprintf("allows %q, by which it takes all rights", outside.Text(pattern, 16)), nil
			}
		}
	}
	return "", nil
}

// onUsers tells whether a statement is about whatever user, or about its bearer.
func (s statement) onUsers(bearer string) bool {
	if len(s.NotResource) > 0 {
		return true
	}
	return slices.ContainsFunc(s.Resource, func(pattern string) bool {
		pattern = variable.ReplaceAllString(pattern, "*")
		if before, user, ok := strings.Cut(pattern, ":user/"); ok { // in which folder somebody is does not matter: that is not known of the bearer
			pattern = before + ":user/" + user[strings.LastIndex(user, "/")+1:]
		}
		account := "123456789012" // where the pattern names one, it is taken for the user's own
		if parts := strings.SplitN(pattern, ":", 6); len(parts) == 6 && accountForm.MatchString(parts[4]) {
			account = parts[4]
		}
		for _, partition := range []string{"aws", "aws-cn", "aws-us-gov"} {
			for _, name := range []string{bearer, "whoever"} {
				if matches(pattern, "arn:"+partition+":iam::"+account+":user/"+name) {
					return true
				}
			}
		}
		return false
	})
}

var (
	// variable is a policy variable, such as ${aws:username}.
	variable    = regexp.MustCompile(`\$\{[^}]*\}`)
	accountForm = regexp.MustCompile(`^[0-9]{12}$`)
)

// matches tells whether a pattern of IAM's policy language covers a text: * is any part, ? any character (IAM User
// Guide, "IAM JSON policy elements").
func matches(pattern, text string) bool {
	p, t, star, from := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p, t = p+1, t+1
		case star >= 0: // the last star takes one more
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
