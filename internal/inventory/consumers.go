package inventory

import (
	"fmt"
	"slices"
	"strings"
)

func checkConsumers(a at, c Credential, catalog Catalog) {
	if len(c.Consumers) == 0 && !c.NoConsumers {
		a.wrong("consumers", "is missing", "declare who uses the key, or write noConsumers: true")
	}
	if len(c.Consumers) > 0 && c.NoConsumers {
		a.wrong("noConsumers", "is set, and there are consumers", "remove one of the two")
	}
	names, canaries := map[string]bool{}, 0
	for i, consumer := range c.Consumers {
		here := at{report: a.report, path: fmt.Sprintf("%s.consumers[%d]", a.path, i)}
		if a.path == "" {
			here.path = fmt.Sprintf("consumers[%d]", i)
		}
		if names[consumer.Name] {
			here.wrong("name", fmt.Sprintf("is %q, like another consumer's", clip(consumer.Name)), "give each its own name")
		}
		names[consumer.Name] = true
		if consumer.Wave == CanaryWave {
			canaries++
		}
		checkConsumer(here, consumer, catalog)
		checkFreshness(here, c, consumer)
	}
	if len(c.Consumers) > 1 && canaries == len(c.Consumers) {
		a.wrong("consumers", "are all in the canary wave: a canary that is the whole fleet protects nobody", "leave most of them out of it")
	}
}

func checkConsumer(a at, consumer Consumer, catalog Catalog) {
	if !IsName(consumer.Name) {
		a.wrong("name", "is no name", nameRule)
	}
	if consumer.Wave != "" && !IsName(consumer.Wave) {
		a.wrong("wave", "is no name", nameRule)
	}
	if consumer.Wave == RestWave {
		a.wrong("wave", "is rest, which is the wave of those that name none", "leave it out")
	}
	switch consumer.Surface {
	case "", SurfaceServer:
	case SurfaceClient, SurfaceFrontend:
		a.wrong("surface", fmt.Sprintf("is %s: such a place can keep no secret", consumer.Surface), "let a server of yours hold the key, and give clients short-lived tokens of it")
	default:
		a.wrong("surface", fmt.Sprintf("is %q", clip(string(consumer.Surface))), "write server")
	}
	if consumer.Check == nil && !consumer.IsBatch() {
		a.wrong("check", "is missing", "say how to tell that an instance is well")
	}
	if consumer.Attestation == nil && !consumer.IsBatch() {
		a.wrong("attestation", "is missing", "say how an instance states which key it uses")
	}
	seen := map[string]bool{}
	for i, name := range consumer.Instances {
		field := fmt.Sprintf("instances[%d]", i)
		if !instanceForm.MatchString(name) || len(name) > maxKeyword || strings.Contains(name, "..") {
			a.wrong(field, "is no name", "write letters, digits, dots, hyphens and underscores")
		}
		if seen[name] {
			a.wrong(field, "is there twice", "remove it")
		}
		seen[name] = true
	}
	if len(consumer.Instances) > 1 {
		if known, ok := catalog.Lookup(RoleTarget, consumer.Target.Type); ok && !known.Pulls && !strings.Contains(string(consumer.Target.Config), "{instance}") {
			a.wrong("target", "is the same for all instances", "write {instance} where they differ")
		}
		if consumer.Attestation != nil && strings.Contains(string(consumer.Attestation.Config), `"url"`) && !strings.Contains(string(consumer.Attestation.Config), "{instance}") {
			a.wrong("attestation", "is the same for all instances: one cannot speak for the others", "write {instance} where they differ")
		}
	}
}

// AttestsByUsage tells whether the issuer's record of uses attests a consumer of this credential, which was validated: no other attestation
// names the issuer's type and account.
func (c Credential) AttestsByUsage(consumer Consumer) bool {
	a := consumer.Attestation
	return a != nil && a.Account != "" && a.Type == c.Issuer.Type && a.Account == c.Issuer.Account
}

// checkUsage refuses attestations by the issuer's usage that cannot speak for their consumer: the issuer
// tells when a key was used, not by whom.
func checkUsage(a at, c Credential, catalog Catalog) {
	instances := 0
	for _, consumer := range c.Consumers {
		instances += len(consumer.InstanceNames())
	}
	for i, consumer := range c.Consumers {
		if consumer.Attestation == nil {
			continue
		}
		known, ok := catalog.Lookup(RoleAttestation, consumer.Attestation.Type)
		if !ok || !known.ByUsage {
			continue
		}
		here := at{report: a.report, path: below(a.path, fmt.Sprintf("consumers[%d]", i))}
		if instances != 1 {
			here.wrong("attestation", fmt.Sprintf("is the issuer's record of uses, which does not tell %d instances apart", instances),
				"let each instance attest for itself, by http or exec")
		}
		if consumer.Replicas > 1 {
			here.wrong("replicas", "is given, and the issuer's record of uses does not tell them apart", "let the replicas attest for themselves, by http or exec")
		}
		own, _ := configOf(catalog, RoleIssuer, c.Issuer).(interface{ Principals() []string })
		of, _ := configOf(catalog, RoleAttestation, *consumer.Attestation).(interface{ Principals() []string })
		if consumer.Attestation.Type != c.Issuer.Type || consumer.Attestation.Account != c.Issuer.Account ||
			own != nil && of != nil && !slices.Equal(own.Principals(), of.Principals()) {
			here.wrong("attestation", "is the record of uses of another issuer than the credential's", "write the issuer's type, account and principal")
		}
	}
}
