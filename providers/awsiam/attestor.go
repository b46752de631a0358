package awsiam

import (
	"context"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/providers"
)

// attestor tells from IAM's record of uses which key is in use.
type attestor struct {
	issuer issuer
	now    func() time.Time
}

var _ providers.Attestor = (*attestor)(nil)

// Attest implements providers.Attestor: the one instance uses the key that was used last. IAM reports a
// use with a delay, so that it goes on stating the retiring key for as long after a delivery. It does not tell
// by whom: a self-test is a use, too. UsedAt lets others see that it came before the delivery.
func (a *attestor) Attest(ctx context.Context, instances []string) ([]key.Statement, error) {
	if len(instances) != 1 {
		return nil, fmt.Errorf("attesting by last use: %w: IAM does not tell which of %d instances used a key", providers.ErrUnsupported, len(instances))
	}
	keys, err := a.issuer.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("attesting by last use: %w", err)
	}
	var last key.Info
	for _, k := range keys {
		if k.LastUsedAt.After(last.LastUsedAt) {
			last = k
		}
	}
	if last.KeyID == "" {
		return nil, fmt.Errorf("attesting by last use: IAM has recorded no use of any key of user %q yet", a.issuer.config.Principal)
	}
	return []key.Statement{{Instance: instances[0], Keys: []string{last.KeyID}, ObservedAt: a.now().UTC(), Source: "issuer usage", UsedAt: last.LastUsedAt}}, nil
}
