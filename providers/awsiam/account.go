package awsiam

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

var (
	_ providers.Lister = (*Account)(nil)
	_ providers.Prober = (*Account)(nil)
)

// pageOfUsers is how many users are asked for at once: each costs calls of its own.
const pageOfUsers = 100

// Principals implements providers.Lister: all IAM users, by the pages that IAM makes. The keys of root are not
// among them: no API lists them.
func (a *Account) Principals(ctx context.Context, page string) ([]string, string, error) {
	client, err := a.iam(ctx)
	if err != nil {
		return nil, "", err
	}
	in := &iam.ListUsersInput{MaxItems: aws.Int32(pageOfUsers)}
	if page != "" {
		in.Marker = &page
	}
	out, err := client.ListUsers(ctx, in)
	if err != nil {
		return nil, "", awsaccount.Error("listing IAM users", err)
	}
	names := make([]string, 0, len(out.Users))
	for _, u := range out.Users {
		names = append(names, aws.ToString(u.UserName))
	}
	if !out.IsTruncated {
		return names, "", nil
	}
	return names, aws.ToString(out.Marker), nil
}

// Keys implements providers.Lister.
func (a *Account) Keys(ctx context.Context, principal string) ([]key.Info, error) {
	i := issuer{account: a, config: Config{Principal: principal}}
	keys, err := i.List(ctx)
	if errors.Is(err, providers.ErrNotFound) {
		return nil, nil
	}
	return keys, err
}

func (a *Account) iam(ctx context.Context) (*iam.Client, error) {
	c, err := a.Config(ctx)
	if err != nil {
		return nil, err
	}
	return iam.NewFromConfig(c), nil
}

// nobody stands for the part of a name that a glob leaves open: no user and no secret is called so.
const nobody = "keyturn-doctor-nobody"

// noKey is no key of anybody; it has the form of one.
const noKey = "AKIAKEYTURNDOCTOR000"

// Probe implements providers.Prober. Reads are really made, of users that do not exist: IAM judges the right
// before it looks for the user. Of calls that change something it asks IAM's policy simulator, which is a right
// of its own (iam:SimulatePrincipalPolicy, docs/aws-doctor-policy.json); without it they stay untried.
func (a *Account) Probe(ctx context.Context, _ providers.Environment, in providers.ProbeInput) (providers.Probed, error) {
	c, err := a.Config(ctx)
	if err != nil {
		return providers.Probed{}, err
	}
	probed := providers.Probed{}
	if probed.As, err = awsaccount.Caller(ctx, c); err != nil {
		return providers.Probed{}, err
	}
	client := iam.NewFromConfig(c)
	lacks := func(action, resource string, err error) error {
		err = awsaccount.Error("trying iam:"+action, err)
		switch {
		case err == nil, errors.Is(err, providers.ErrNotFound), errors.Is(err, providers.ErrInvalid):
			return nil
		case errors.Is(err, providers.ErrDenied):
			probed.Lacks = append(probed.Lacks, missingRight(action, resource))
			return nil
		}
		return err
	}
	var users []string
	for _, glob := range in.Principals {
		user := strings.ReplaceAll(strings.ReplaceAll(glob, "**", "*"), "*", nobody)
		if !userForm.MatchString(user) {
			continue // a principal of another issuer type
		}
		users = append(users, user)
		_, err := client.ListAccessKeys(ctx, &iam.ListAccessKeysInput{UserName: &user})
		if err := lacks("ListAccessKeys", "user/"+glob, err); err != nil {
			return probed, err
		}
	}
	_, err = client.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: aws.String(noKey)})
	if err := lacks("GetAccessKeyLastUsed", "*", err); err != nil {
		return probed, err
	}
	if in.Scans {
		_, err = client.ListUsers(ctx, &iam.ListUsersInput{MaxItems: aws.Int32(1)})
		if err := lacks("ListUsers", "*", err); err != nil {
			return probed, err
		}
	}
	return probed, a.simulate(ctx, client, users, &probed)
}

func missingRight(action, resource string) string {
	return fmt.Sprintf("iam:%s on %s is not allowed: see docs/aws-worker-policy.json, and for ListUsers docs/aws-scan-policy.json", action, resource)
}

// changing are the actions of a rotation that only the simulator can try.
var changing = []string{"iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey"}

// simulate asks IAM whether the worker may change the keys of these users.
func (a *Account) simulate(ctx context.Context, client *iam.Client, users []string, probed *providers.Probed) error {
	source, ok := policySource(probed.As)
	if !ok || len(users) == 0 {
		return nil
	}
	account := strings.SplitN(source, ":", 6)
	var resources []string
	for _, u := range users {
		resources = append(resources, strings.Join(append(account[:5:5], "user/"+u), ":"))
	}
	out, err := client.SimulatePrincipalPolicy(ctx, &iam.SimulatePrincipalPolicyInput{
		PolicySourceArn: &source, ActionNames: changing, ResourceArns: resources,
	})
	if err != nil {
		if ctx.Err() != nil {
			return awsaccount.Error("asking IAM's policy simulator", err)
		}
		probed.Untried = append(probed.Untried, fmt.Sprintf("%s were not tried, since iam:SimulatePrincipalPolicy does not answer (%s): see docs/aws-doctor-policy.json",
			strings.Join(changing, ", "), awsaccount.Code(err)))
		return nil
	}
	for _, r := range out.EvaluationResults {
		if r.EvalDecision != types.PolicyEvaluationDecisionTypeAllowed {
			probed.Lacks = append(probed.Lacks, missingRight(strings.TrimPrefix(aws.ToString(r.EvalActionName), "iam:"), aws.ToString(r.EvalResourceName)))
		}
	}
	return nil
}

var assumedRole = regexp.MustCompile(`^(arn:[a-z-]+):sts::(\d+):assumed-role/([^/]+)/`)

// policySource is the identity whose policies the simulator shall use: a user, or the role of a session.
func policySource(arn string) (string, bool) {
	if m := assumedRole.FindStringSubmatch(arn); m != nil {
		return fmt.Sprintf("%s:iam::%s:role/%s", m[1], m[2], m[3]), true
	}
	return arn, strings.Contains(arn, ":iam::") && strings.Contains(arn, ":user/")
}
