// Package awssecretsmanager keeps credentials in AWS Secrets Manager, one secret each: CURRENT, PENDING and
// PREVIOUS are its staging labels AWSCURRENT, AWSPENDING and AWSPREVIOUS, a version's ID is the token that
// it was staged with, and keyturn's metadata is the value of a companion secret. It is also the target of consumers
// that read AWSCURRENT by themselves.
package awssecretsmanager

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keyturn/keyturn/internal/awsaccount"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Descriptor describes the type awssecretsmanager: store, and target of those who pull.
func Descriptor() providers.Descriptor {
	return providers.Descriptor{
		Type:    "awssecretsmanager",
		Summary: "keeps secrets in AWS Secrets Manager, from where consumers read them",
		Account: func() any { return new(Account) },
		Store: providers.MakeWithAccount(func(_ providers.Environment, a *Account, c *StoreConfig) (providers.Store, error) {
			return &store{account: &a.Account, name: c.Path, records: &a.records}, nil
		}),
		Target: providers.Make(func(providers.Environment, *TargetConfig) (providers.Target, error) {
			return target{}, nil
		}),
		Pulls: true,
	}
}

// Account is an AWS account.
type Account struct {
	awsaccount.Account
	records records
}

var _ providers.Prober = (*Account)(nil)

// nobody stands for the part of a name that a glob leaves open: no secret is called so.
const nobody = "keyturn-doctor-nobody"

// Probe implements providers.Prober: it describes secrets that do not exist. Secrets Manager judges the right
// before it looks for the secret. Rights to change one stay untried.
func (a *Account) Probe(ctx context.Context, _ providers.Environment, in providers.ProbeInput) (providers.Probed, error) {
	c, err := a.Config(ctx)
	if err != nil {
		return providers.Probed{}, err
	}
	probed := providers.Probed{}
	if probed.As, err = awsaccount.Caller(ctx, c); err != nil {
		return providers.Probed{}, err
	}
	client := secretsmanager.NewFromConfig(c)
	for _, glob := range in.StorePaths {
		name := strings.ReplaceAll(strings.ReplaceAll(glob, "**", "*"), "*", nobody)
		if !nameForm.MatchString(name) {
			continue // a path of another store type
		}
		_, err := client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &name})
		switch err = awsaccount.Error("trying secretsmanager:DescribeSecret", err); {
		case err == nil, errors.Is(err, providers.ErrNotFound), errors.Is(err, providers.ErrInvalid):
		case errors.Is(err, providers.ErrDenied):
			probed.Lacks = append(probed.Lacks, fmt.Sprintf("secretsmanager:DescribeSecret on secret:%s is not allowed: see docs/aws-worker-policy.json", glob))
		default:
			return probed, err
		}
	}
	if len(in.StorePaths) > 0 {
		probed.Untried = []string{"secretsmanager: calls that change a secret were not tried: there is no dry run of them"}
	}
	return probed, nil
}

// StoreConfig is the store's part of a credential.
type StoreConfig struct {
	// Path is the secret's name, such as payments/api; not its ARN.
	Path string `json:"path"`
}

// SecretPath implements providers.StoreConfig.
func (c *StoreConfig) SecretPath() string { return c.Path }

// nameForm is what Secrets Manager allows as the name of a secret.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9/_+=.@-]{1,512}$`)

// maxName is the length of the longest one.
const maxName = 512

// arnSuffix is what Secrets Manager appends to a name to make an ARN: letters and digits at random. A word of six letters is none,
// such as that of payments-secret: a secret that is called so is found by its whole name.
var arnSuffix = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

// fromARN tells whether a name is probably what somebody took out of an ARN, and so that of no secret.
func fromARN(name string) bool {
	return arnSuffix.MatchString(name) && capitalInside.MatchString(name[len(name)-len("AbC123"):])
}

// capitalInside is what most suffixes have, and no word.
var capitalInside = regexp.MustCompile(`[a-z0-9][A-Z]`)

// Problems tells what is wrong with the configuration.
func (c *StoreConfig) Problems() []strictyaml.Problem {
	switch {
	case !nameForm.MatchString(c.Path):
		return []strictyaml.Problem{{Field: "path", What: "is no name of a secret", Write: "the secret's name, such as payments/api, not its ARN"}}
	case fromARN(c.Path):
		return []strictyaml.Problem{{
			Field: "path", What: "ends like an ARN, with a hyphen and six characters at random, which are no part of a secret's name",
			Write: "the name alone, such as payments/api",
		}}
	case strings.HasSuffix(c.Path, companion):
		return []strictyaml.Problem{{Field: "path", What: "is kept for keyturn's own record of another secret", Write: "another name"}}
	case len(c.Path)+len(companion) > maxName:
		return []strictyaml.Problem{{Field: "path", What: "leaves no room for the name of keyturn's record beside it", Write: "a shorter name"}}
	}
	return nil
}

// TargetConfig has nothing to say: the consumer reads the credential's secret, AWSCURRENT, or in the
// canary wave AWSPENDING and, when no version bears that, AWSCURRENT.
type TargetConfig struct{}

// target delivers nothing: promotion does.
type target struct{}

// Deliver implements providers.Target.
func (target) Deliver(ctx context.Context, _ providers.Delivery) error { return ctx.Err() }

// Reach implements providers.Target.
func (target) Reach(ctx context.Context, _ string) error { return ctx.Err() }
