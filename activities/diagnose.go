package activities

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/policy"
	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// probeFor is how long an account may take to answer.
const probeFor = 20 * time.Second

// Diagnose says what this worker is, and tries each of its accounts. It changes nothing: what can only be tried
// by changing something is told of as untried.
func (a *Activities) Diagnose(ctx context.Context) (policy.Diagnosis, error) {
	config := a.Config()
	d := policy.Diagnosis{
		Worker: a.Worker, Build: a.Build, Digest: config.Digest, Ahead: a.Now().Sub(activity.GetInfo(ctx).StartedTime),
		AuditFile: config.Audit.File != "", Retention: config.Audit.Retention, AllowUnsigned: a.AllowUnsigned,
		Trust: signersProblems(config), Accounts: []policy.AccountProbe{},
	}
	if a.ShippingTrouble != nil {
		d.AuditSink, d.AuditWaits = true, outside.Text(a.ShippingTrouble(), outside.MaxText)
	}
	in := providers.ProbeInput{}
	in.Principals, in.StorePaths = config.AllBounds()
	var probes fanOut
	names := slices.Sorted(maps.Keys(config.Accounts))
	d.Accounts = make([]policy.AccountProbe, len(names))
	for i, name := range names {
		probes.do(func() {
			account := config.Accounts[name]
			in := in
			in.Scans = account.Scan
			d.Accounts[i] = a.probeAccount(ctx, config, name, account, in)
		})
	}
	probes.wait()
	return d, ctx.Err()
}

func (a *Activities) probeAccount(ctx context.Context, config *workerconfig.Config, name string, account workerconfig.Account, in providers.ProbeInput) policy.AccountProbe {
	p := policy.AccountProbe{Name: name, Type: account.Type, Quota: account.Quota.PerSecond > 0, Issuer: a.descriptor(account.Type).Issuer != nil}
	prober, can := account.Settings.(providers.Prober)
	if !can {
		p.Untryable = true
		return p
	}
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	probed, err := prober.Probe(ctx, config.NotifierEnvironment(), in)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("no answer within " + probeFor.String())
		}
		p.Problem = outside.Text(err.Error(), outside.MaxText/2)
	}
	for _, texts := range [][]string{probed.Lacks, probed.Untried} {
		for i := range texts {
			texts[i] = outside.Text(texts[i], outside.MaxText/2)
		}
	}
	p.As, p.Lacks, p.Untried = probed.As, probed.Lacks, probed.Untried
	return p
}

// signersProblems tells which of the files of those who may sign cannot be used now.
func signersProblems(c *workerconfig.Config) []string {
	var problems []string
	look := func(file string) {
		signers, err := signed.LoadSigners(file)
		switch {
		case err != nil:
			problems = append(problems, outside.Text(err.Error(), outside.MaxText/2))
		case len(signers) == 0:
			problems = append(problems, file+" names nobody")
		}
	}
	for _, t := range c.Trust.Inventory {
		look(t.AllowedSigners)
	}
	for _, group := range slices.Sorted(maps.Keys(c.Trust.Approvers)) {
		look(c.Trust.Approvers[group])
	}
	if c.Trust.Incidents != "" {
		look(c.Trust.Incidents)
	}
	return problems
}
