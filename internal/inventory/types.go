// Package inventory is the declared set of credentials: its YAML, strictly read and checked, and the
// Spec that one rotation gets of it by value.
package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyturn/keyturn/internal/signed"
	"github.com/keyturn/keyturn/internal/strictyaml"
)

// APIVersion is the version of the YAML that this package reads.
const APIVersion = "keyturn/v1"

// Risk is how much a leaked key could do. It chooses the policy of a credential that names none.
type Risk string

// The risks, least first.
const (
	RiskLow      Risk = "low"
	RiskStandard Risk = "standard"
	RiskHigh     Risk = "high"
	RiskCritical Risk = "critical"
)

// Risks lists the risks, least first.
var Risks = []Risk{RiskLow, RiskStandard, RiskHigh, RiskCritical}

// Inventory is one file, read and resolved: each credential already carries its policy's terms.
type Inventory struct {
	// APIVersion is keyturn/v1.
	APIVersion string `json:"apiVersion"`
	// Name is the inventory's name. Two inventories never touch each other's credentials.
	Name string `json:"inventory"`
	// Defaults hold for every credential that does not say otherwise.
	Defaults Defaults `json:"defaults,omitzero"`
	// Policies are named terms. A credential takes the one it names, else the one of its risk.
	Policies map[string]Policy `json:"policies,omitempty"`
	// Credentials are the entries.
	Credentials []Credential `json:"credentials"`

	// Advice is what is worth a thought and no error, with its place: a risk that is lower than scopes and data
	// ask for.
	Advice strictyaml.Errors `json:"-"`
	// Claims are what each of Credentials claims, in their order.
	Claims [][]Claim `json:"-"`
}

// Spec is that of one credential, as a rotation takes it that begins now. It is unsigned, and of no namespace yet.
func (i *Inventory) Spec(credential string, now time.Time) (Spec, error) {
	var names []string
	for _, c := range i.Credentials {
		if c.Name == credential {
			return Spec{Inventory: i.Name, Generation: now.UnixMilli(), Credential: c}, nil
		}
		names = append(names, c.Name)
	}
	return Spec{}, fmt.Errorf("no credential %q; it has %s", credential, strings.Join(names, ", "))
}

// Defaults are a credential's fields, said once for the whole file. A policy overrides them, a
// credential overrides both.
type Defaults struct {
	// Owner is whom to ask and to tell: an address, or the name of a team.
	Owner string `json:"owner,omitempty"`
	// Environment names the bounds of the worker configuration that apply.
	Environment string `json:"environment,omitempty"`
	// Policy is the one of credentials that name neither a policy nor a risk.
	Policy string `json:"policy,omitempty"`
	// Labels are added to each credential's own.
	Labels map[string]string `json:"labels,omitempty"`
	// Notify names notifiers of the worker configuration; all of them when empty.
	Notify []string `json:"notify,omitempty"`
	// Schedule says when routine rotations may begin.
	Schedule Schedule `json:"schedule,omitzero"`
	Terms
}

// Policy is a named set of terms, and the risk it is made for.
type Policy struct {
	// Risk of the credentials that take this policy without naming it.
	Risk Risk `json:"risk,omitempty"`
	Terms
}

// Terms are the rules that a rotation keeps. What neither the credential, nor its policy, nor the
// defaults say has the value of DefaultTerms.
type Terms struct {
	// RotateEvery is the cryptoperiod: a key older than this is overdue.
	RotateEvery Duration `json:"rotateEvery,omitzero"`
	// Overlap is how long the issuer accepts both keys after the last delivery, at least.
	Overlap Duration `json:"overlap"`
	// QuietWindow is how long the retiring key must not have been used before it may be disabled.
	QuietWindow Duration `json:"quietWindow"`
	// WaveSoak is how long a wave is watched before the next one.
	WaveSoak Duration `json:"waveSoak"`
	// WaveTimeout is how long a wave's instances may take to attest the incoming key. Time in which no worker delivers to
	// them does not count.
	WaveTimeout Duration `json:"waveTimeout"`
	// WaveSteps are how many of the instances of consumers without a wave have the key by the end of each of their
	// waves, as a share (10%) or a number (5); the rest follows. All at once when empty.
	WaveSteps []WaveStep `json:"waveSteps,omitempty"`
	// WaveParallel is how many instances of a wave are delivered to at once; 16 when missing.
	WaveParallel int `json:"waveParallel,omitzero" jsonschema:"minimum=1,maximum=256"`
	// DisableSoak is how long a disabled key is watched before it is destroyed.
	DisableSoak Duration `json:"disableSoak"`
	// ErrorBudget is the rate of errors that turns a rotation back; null removes the one of the policy.
	ErrorBudget *ErrorBudget `json:"errorBudget,omitempty"`
	// Approvals are the gates that wait for people.
	Approvals Approvals `json:"approvals"`
}

// OnBreach says what a breached error budget does to a rotation.
type OnBreach string

// What a breach does.
const (
	BreachRollback OnBreach = "rollback"
	BreachPause    OnBreach = "pause"
)

// ErrorBudget is judged over the health signals of a credential, all of them added up.
type ErrorBudget struct {
	// Ratio of errors to total above which the budget is breached, 0 to 1.
	Ratio float64 `json:"ratio" jsonschema:"minimum=0,maximum=1"`
	// Window over which the ratio is taken.
	Window Duration `json:"window"`
	// MinTotal is the least traffic in the window for which a ratio means anything.
	MinTotal int `json:"minTotal" jsonschema:"minimum=0"`
	// MaxHold is how long a wave with less traffic than that is held at the end of its soak, 24h by default; then the gate hold opens.
	MaxHold Duration `json:"maxHold,omitzero"`
	// OnBreach is rollback (default) or pause.
	OnBreach OnBreach `json:"onBreach"`
}

// Gate is a point of a rotation that waits for approvals.
type Gate string

// The gates.
const (
	GateSignoff Gate = "signoff"
	GateRevoke  Gate = "revoke"
	// GateHold opens when an error budget has too little traffic for too long: passing it is going on without one. It asks for
	// what GateRevoke asks for.
	GateHold Gate = "hold"
)

// Gates are all of them.
var Gates = []Gate{GateSignoff, GateRevoke, GateHold}

// DefaultMaxHold is the MaxHold of a budget that says nothing.
const DefaultMaxHold = Duration(24 * time.Hour)

// Approvals are the requirements of the gates; a gate without one does not wait.
type Approvals struct {
	// Signoff is asked for before a key is issued.
	Signoff *Approval `json:"signoff,omitempty"`
	// Revoke is asked for before the retiring key is disabled.
	Revoke *Approval `json:"revoke,omitempty"`
}

// For returns the requirement of a gate, nil for none.
func (a Approvals) For(g Gate) *Approval {
	switch g {
	case GateSignoff:
		return a.Signoff
	case GateRevoke, GateHold:
		return a.Revoke
	}
	return nil
}

// Trust is what an approval must prove.
type Trust string

// The trusts. With any, whoever may write to the Temporal namespace may approve.
const (
	TrustSigned Trust = "signed"
	TrustAny    Trust = "any"
)

// Approval is what a gate asks for. A gate with Count 0 is open: nobody is asked.
type Approval struct {
	// From names approver groups of the worker configuration.
	From []string `json:"from,omitempty"`
	// Count is how many different people must approve.
	Count int `json:"count" jsonschema:"minimum=0,maximum=20"`
	// Trust is signed (default) or any.
	Trust Trust `json:"trust"`
	// FourEyes: who signed the spec that is followed does not approve it. It takes signed specs and signed approvals.
	FourEyes bool `json:"fourEyes,omitempty"`
	// RequestExpires is how long a gate waits before its evidence is gathered anew.
	RequestExpires Duration `json:"requestExpires,omitzero"`
	// ApprovalExpires is how long one approval stays valid while others are awaited.
	ApprovalExpires Duration `json:"approvalExpires,omitzero"`
}

// Schedule says when routine rotations of a credential may begin. One that says no time of day lets them
// begin at any time. It holds for rotations that a person begins without --now, too; only an emergency ignores it.
type Schedule struct {
	// TimeZone is the IANA name of the zone of all times here; UTC when empty.
	TimeZone string `json:"timeZone,omitempty"`
	// Days of the week with a window, as mon, tue, wed, thu, fri, sat or sun; every day when empty.
	Days []Day `json:"days,omitempty"`
	// At is the time of day at which a window opens, "HH:MM".
	At string `json:"at,omitempty"`
	// Window is how long it stays open; the jitter and an hour when zero.
	Window Duration `json:"window,omitzero"`
	// Jitter spreads the begin over this long.
	Jitter Duration `json:"jitter,omitzero"`
	// Blackouts are times in which a rotation neither begins nor takes the retiring key away. A key that is
	// disabled already is destroyed in its time.
	Blackouts []Blackout `json:"blackouts,omitempty"`
	// Paused says why no routine rotation begins for now; empty for none paused.
	Paused string `json:"paused,omitempty"`
}

// Blackout is a time without changes.
type Blackout struct {
	// From is its first day, or moment: "2026-12-20", "2026-12-20T18:00"; "12-20" is of every year.
	From string `json:"from"`
	// To is its last day, which counts whole, or the moment of its end, in the form of from.
	To string `json:"to"`
	// Why is for those who wait for its end.
	Why string `json:"why,omitempty"`
}

// Surface is where a consumer runs. Only a server can keep a secret.
type Surface string

// The surfaces. Client and frontend are refused by validation.
const (
	SurfaceServer   Surface = "server"
	SurfaceClient   Surface = "client"
	SurfaceFrontend Surface = "frontend"
)

// Credential is one entry, and with its terms resolved, what a rotation handles.
type Credential struct {
	// Name is unique among all inventories of a Temporal namespace.
	Name string `json:"name"`
	// Owner is whom to ask and to tell: an address, or the name of a team.
	Owner string `json:"owner"`
	// Purpose says what the key is for.
	Purpose string `json:"purpose"`
	// Environment names the bounds of the worker configuration that apply.
	Environment string `json:"environment"`
	// Risk is how much a leaked key could do.
	Risk Risk `json:"risk,omitempty"`
	// Labels are for finding credentials.
	Labels map[string]string `json:"labels,omitempty"`
	// Scopes are what the key may do: given to an issuer that can narrow, checked at one that cannot.
	Scopes []string `json:"scopes,omitempty"`
	// Data are the kinds of sensitive data that the key reaches: personal, payment, health or secrets. They
	// raise the risk.
	Data []Data `json:"data,omitempty"`
	// Expires is the life of each issued key, for issuers whose keys can expire: rotateEvery at least, since a key is rotated
	// before it ends. An overlap ends a waveTimeout before either key does.
	Expires Duration `json:"expires,omitzero"`
	// Policy names the terms; those made for the risk when empty.
	Policy string `json:"policy,omitempty"`
	Terms
	// Schedule says when routine rotations may begin.
	Schedule Schedule `json:"schedule,omitzero"`
	// Issuer mints and revokes the keys.
	Issuer Provider `json:"issuer"`
	// Store keeps the versions of the secret.
	Store Provider `json:"store"`
	// Adopt names keys at the issuer that existed before keyturn and are ours to retire.
	Adopt []string `json:"adopt,omitempty"`
	// Verify are smoke tests of the incoming key, run before it is delivered.
	Verify []Provider `json:"verify,omitempty"`
	// Health are the signals that the error budget is judged by.
	Health []Provider `json:"health,omitempty"`
	// Consumers are all who use the key.
	Consumers []Consumer `json:"consumers,omitempty"`
	// NoConsumers says that the missing of consumers is meant.
	NoConsumers bool `json:"noConsumers,omitempty"`
	// DependsOn names credentials of this inventory that this one was made with: when one of them is
	// exposed, so is this.
	DependsOn []string `json:"dependsOn,omitempty"`
	// Notify names notifiers of the worker configuration; all of them when empty.
	Notify []string `json:"notify,omitempty"`
}

// CanaryWave is the wave that is delivered to first.
const CanaryWave = "canary"

// Consumer is something that uses the key.
type Consumer struct {
	// Name is unique within the credential.
	Name string `json:"name"`
	// Instances are the processes, hosts or replicas; one, named like the consumer, when empty.
	Instances []string `json:"instances,omitempty"`
	// Wave is canary, or a name: waves follow each other in the order of the file. Consumers without
	// one follow last, by the steps of waveSteps.
	Wave string `json:"wave,omitempty"`
	// Replicas is how many processes answer for each instance, behind one address; 1 when missing. With more, an
	// instance is asked several times, and has a key only when every answer says so.
	Replicas int `json:"replicas,omitzero" jsonschema:"minimum=1,maximum=20"`
	// CacheTTL is how long the consumer may go on with a key that it has cached, after it has another one. A wave's
	// soak, the overlap and the quiet window begin after it.
	CacheTTL Duration `json:"cacheTTL,omitzero"`
	// LongestRun is of a batch job: how long a run of it may last, with the key that it began with. The overlap must not
	// be shorter. An instance that is not running is judged by the copy of the key that it will start with.
	LongestRun Duration `json:"longestRun,omitzero"`
	// Surface is where the consumer runs; server when empty, and nothing else can keep a secret.
	Surface Surface `json:"surface,omitempty"`
	// Target is how the key is delivered.
	Target Provider `json:"target"`
	// Check tells whether an instance is healthy. Only a batch job (longestRun) may have none.
	Check *Provider `json:"check,omitempty"`
	// Attestation tells which key an instance uses. Only a batch job (longestRun) may have none.
	Attestation *Provider `json:"attestation,omitempty"`
	// Purge makes an instance forget the keys that it cached. It is called after each delivery, and after the end of
	// a key. One call purges one process: with replicas, cacheTTL says when the others have forgotten.
	Purge *Provider `json:"purge,omitempty"`
}

// IsBatch tells whether the consumer is a batch job, which does not run all the time.
func (c Consumer) IsBatch() bool { return c.LongestRun > 0 }

// InstanceNames are the consumer's instances; never empty.
func (c Consumer) InstanceNames() []string {
	if len(c.Instances) == 0 {
		return []string{c.Name}
	}
	return c.Instances
}

// LookEvery is how often something is looked at while waiting: ten times in the shortest wait of the credential, but not more often
// than each second, nor less than each 30.
func (c Credential) LookEvery() time.Duration {
	shortest := 5 * time.Minute
	for _, d := range []Duration{c.WaveSoak, c.Overlap, c.QuietWindow, c.DisableSoak} {
		if d > 0 {
			shortest = min(shortest, d.Std())
		}
	}
	return min(max(shortest/10, time.Second), 30*time.Second)
}

// LongestCache is the longest cacheTTL of the consumers.
func (c Credential) LongestCache() Duration {
	return c.longest(func(consumer Consumer) Duration { return consumer.CacheTTL })
}

// LongestBatch is the longest run of the batch jobs among the consumers.
func (c Credential) LongestBatch() Duration {
	return c.longest(func(consumer Consumer) Duration { return consumer.LongestRun })
}

func (c Credential) longest(of func(Consumer) Duration) (longest Duration) {
	for _, consumer := range c.Consumers {
		longest = max(longest, of(consumer))
	}
	return longest
}

// Accounts are all accounts of the worker configuration that the credential names, each once.
func (c Credential) Accounts() []string {
	named := []Provider{c.Issuer, c.Store}
	named = append(append(named, c.Verify...), c.Health...)
	for _, consumer := range c.Consumers {
		named = append(named, consumer.Target)
		for _, p := range []*Provider{consumer.Check, consumer.Attestation, consumer.Purge} {
			if p != nil {
				named = append(named, *p)
			}
		}
	}
	var accounts []string
	for _, p := range named {
		if p.Account != "" && !slices.Contains(accounts, p.Account) {
			accounts = append(accounts, p.Account)
		}
	}
	return accounts
}

// Provider names something of the outside world: its type, the account of the worker configuration
// where the type has accounts, and the type's own fields, which only the type understands.
type Provider struct {
	Type    string
	Account string
	// Config is the whole object as JSON, type and account included.
	Config json.RawMessage

	fields any
}

// Fields are the type's own ones as ParseSpec decoded them, in what the type's NewConfig made; nil before. All who have the
// spec share them: nobody writes to them.
func (p Provider) Fields() any { return p.fields }

// MarshalJSON writes the object as it stood in the YAML.
func (p Provider) MarshalJSON() ([]byte, error) {
	if len(p.Config) == 0 {
		return json.Marshal(map[string]string{"type": p.Type})
	}
	return p.Config, nil
}

// UnmarshalJSON keeps the object and reads its type and account.
func (p *Provider) UnmarshalJSON(data []byte) error {
	var head struct {
		Type    string `json:"type"`
		Account string `json:"account"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	*p = Provider{Type: head.Type, Account: head.Account, Config: slices.Clone(data)}
	return nil
}

// SpecSchema is the version of Spec's JSON.
const SpecSchema = "keyturn/spec/v1"

// Spec is one credential's part of the inventory, by value: all that a rotation knows of it.
type Spec struct {
	Schema string `json:"schema"`
	// Namespace is the Temporal namespace that the spec is meant for; a signed spec must name it.
	Namespace string `json:"namespace,omitempty"`
	Inventory string `json:"inventory"`
	// Generation grows with each version of the spec: the time of its making in Unix milliseconds.
	Generation int64 `json:"generation"`
	// NotAfter is until when a rotation may begin by the spec; zero for ever.
	NotAfter   time.Time  `json:"notAfter,omitzero"`
	Credential Credential `json:"credential"`
}

// SignedSpec is a Spec as it travels: with the signature of somebody who may, or unsigned.
type SignedSpec struct{ signed.Envelope }

// NewSpec packs a spec, unsigned, in the form that a signature would be of.
func NewSpec(spec Spec) (SignedSpec, error) {
	spec.Schema = SpecSchema
	body, err := json.Marshal(spec)
	if err != nil {
		return SignedSpec{}, fmt.Errorf("packing spec: %w", err)
	}
	canonical, err := signed.Canonical(body)
	return SignedSpec{signed.Envelope{Body: canonical}}, err
}

// Sign returns the spec with a signature.
func (s SignedSpec) Sign(key ssh.Signer) (SignedSpec, error) {
	e, err := signed.Sign(signed.Spec, s.Body, key)
	return SignedSpec{e}, err
}

// Same tells whether both are one spec with one signature, however their JSON is written.
func (s SignedSpec) Same(other SignedSpec) bool {
	ours, err := signed.Canonical(s.Body)
	theirs, otherErr := signed.Canonical(other.Body)
	return err == nil && otherErr == nil && bytes.Equal(ours, theirs) && s.Signature == other.Signature
}

// Peek reads the spec without checking it: enough to follow and show it, not to act on it.
func (s SignedSpec) Peek() (Spec, error) {
	var spec Spec
	err := json.Unmarshal(s.Body, &spec)
	return spec, err
}
