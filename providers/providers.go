// Package providers declares what keyturn asks of the outside world: issuers, stores, targets,
// attestors, checks, health signals and notifiers. Each real system is a package below; the list of
// them is package all, and package providertest is the conformance suite that each must pass.
//
// Every method may be called again after a failure, a time-out or a kill of the process, with the same
// arguments, and then leaves the same end. Every method honours the context's deadline. Errors wrap one
// of the sentinels below where it applies; any other error is taken as passing trouble and retried.
//
// What a method returns goes into histories, the audit record and messages. So neither an error nor anything else that is
// returned has text of a peer: no body, no message, no standard error, nor a part of one, since a key may be in it, any key of
// the credential, in any form. An error has words of ours: what was asked, the status or code where its form is documented,
// the length of what is not repeated, and a reason. Names that a peer states (a key ID, a policy, who used a key) have a form
// that is checked, and a bounded length.
package providers

import (
	"context"
	"errors"
	"time"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/secret"
)

// The sentinels. Package activities maps each to retryable or not.
var (
	// ErrNotFound: the key, version, secret or principal does not exist. Final.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a compare-and-swap lost, or a token was used with other data. Final for this
	// attempt: facts must be gathered anew. Of PutMetadata it is passing: read anew, change that, and put it.
	ErrConflict = errors.New("conflict")
	// ErrSlotsFull: the issuer allows no further key for this principal. Final.
	ErrSlotsFull = errors.New("all key slots are in use")
	// ErrTokenUsed: the issue token has already minted a live key, whose secret cannot be told again.
	// Final for this token until that key is destroyed.
	ErrTokenUsed = errors.New("issue token already used")
	// ErrPending: the key is ordered, and a person or a slow system has yet to mint it. Ask again with
	// the same token.
	ErrPending = errors.New("issuing is pending")
	// ErrThrottled: asked too often. Passing.
	ErrThrottled = errors.New("throttled")
	// ErrDenied: the worker lacks a permission, or a bound of its configuration forbids it. Final.
	ErrDenied = errors.New("denied")
	// ErrInvalid: the system understood the request and will never accept it. Final.
	ErrInvalid = errors.New("invalid request")
	// ErrUnsupported: this provider cannot do that. Capabilities say so beforehand. Final.
	ErrUnsupported = errors.New("unsupported")
	// ErrKeyRefused: a check reached its peer, and the peer refused the key (HTTP 401 or 403). It is the
	// proof that a retired key is dead, and an error for a key that should work.
	ErrKeyRefused = errors.New("the key was refused")
	// ErrNoData: a health signal has nothing to say: no source, no traffic. Neither good nor bad.
	ErrNoData = errors.New("no data")
)

// IssuerCapabilities are what an issuer can do. The static ones of a type are the best that any of
// its accounts has (and UsageLag the least); an Issuer answers for its account.
type IssuerCapabilities struct {
	// Slots is how many keys a principal may have, disabled ones included; 0 for no limit.
	Slots int `json:"slots,omitempty"`
	// CanDisable: Disable and Enable exist, so that revoking has a way back.
	CanDisable bool `json:"canDisable"`
	// CanNarrow: a key gets the scopes that are asked for. Otherwise it has its principal's rights.
	CanNarrow bool `json:"canNarrow"`
	// CanExpire: a key may be given an end.
	CanExpire bool `json:"canExpire"`
	// ReportsUsage: key.Info has LastUsedAt, late by at most UsageLag.
	ReportsUsage bool          `json:"reportsUsage"`
	UsageLag     time.Duration `json:"usageLag,omitempty"`
	// ReportsRefusals: who is refused with a disabled key is reported as its use. Otherwise nobody may tell who misses it.
	ReportsRefusals bool `json:"reportsRefusals"`
	// Fields are the names of the bundle's fields that make up a key; just "value" when empty. All others
	// in a store's version are foreign.
	Fields []string `json:"fields,omitempty"`
	// ConsistentWithin is how long after a change the issuer may still answer as before it.
	ConsistentWithin time.Duration `json:"consistentWithin,omitempty"`
}

// Issuer mints and revokes the keys of one credential: it is opened for its principal, or for the two
// that alternate.
type Issuer interface {
	Capabilities(ctx context.Context) (IssuerCapabilities, error)
	// List returns every key of the principal, disabled ones too, oldest first. A destroyed key is not
	// listed. ErrNotFound when the principal does not exist. Where the report of uses has a time of its own
	// (key.Info.ReportedAt), no use in it is later, no later report has an earlier one, and it stands still
	// while nobody reports.
	List(ctx context.Context) ([]key.Info, error)
	// Issue mints a key. Where the issuer knows tokens, a second call with the token of a live key
	// returns ErrTokenUsed (or, where it can tell the secret again, the same key). Where it does not, a
	// second call mints a second key: the caller writes an intent beforehand and finds the orphan by it.
	// ErrSlotsFull, ErrPending.
	Issue(ctx context.Context, r IssueRequest) (Issued, error)
	// Identify names the key that a bundle holds, ErrNotFound for a bundle that is no live key of this
	// principal. It never uses the key.
	Identify(ctx context.Context, b secret.Bundle) (keyID string, err error)
	// Destroy revokes the key for good. A key that does not exist is not an error.
	Destroy(ctx context.Context, k key.Ref) error
}

// IssueRequest asks for a key.
type IssueRequest struct {
	// Token is unique to one mint (UUIDv5 of rotation ID and ordinal).
	Token string
	// Principal is one of the issuer's principals; empty where there is one.
	Principal string
	Scopes    []string
	// ExpiresAt is zero for a key without end.
	ExpiresAt time.Time
}

// Issued is a key and, this once, its secret. The caller closes the bundle.
type Issued struct {
	Key    key.Info
	Bundle secret.Bundle
}

// Disabler is an Issuer that can disable.
type Disabler interface {
	// Disable makes the issuer refuse the key until Enable. ErrNotFound for a destroyed key.
	Disable(ctx context.Context, k key.Ref) error
	// Enable takes Disable back. ErrNotFound for a destroyed key.
	Enable(ctx context.Context, k key.Ref) error
}

// RightsChecker is an Issuer whose keys have all their principal's rights, and that can tell what those
// are.
type RightsChecker interface {
	// CheckRights lists why a key of this principal must not be rotated, as sentences for people: rights
	// beyond the scopes, an administrator, the identity that the worker itself runs as. None when it may.
	CheckRights(ctx context.Context, scopes []string) (objections []string, err error)
}

// SelfTester is an Issuer that can try a key harmlessly.
type SelfTester interface {
	// SelfTest returns nil when the key works, ErrKeyRefused when the issuer refuses it.
	SelfTest(ctx context.Context, b secret.Bundle) error
}

// Lister is an account, as the worker configuration names it, whose issuer can tell every key that it has,
// whoever made it. An account's type that implements it can be scanned. It changes nothing.
type Lister interface {
	// Principals returns a page of those that may have keys: each of them on one page, in no promised order.
	// page is empty for the first page; next is what the one after is asked for with, empty after the last.
	// A page may be empty. What is made or destroyed meanwhile may be missing. ErrDenied, ErrThrottled.
	Principals(ctx context.Context, page string) (names []string, next string, err error)
	// Keys returns every key of a principal as its Issuer's List does, and none for one that does not exist.
	Keys(ctx context.Context, principal string) ([]key.Info, error)
}

// Prober is an account that can be tried: is it reached, and may the worker do there what it needs to? An
// account's type that implements it is tried by doctor. It changes nothing, and calls nothing that could.
type Prober interface {
	// Probe answers within seconds. An error says that the account is not reached or refuses the worker.
	Probe(ctx context.Context, e Environment, in ProbeInput) (Probed, error)
}

// ProbeInput says what the worker may have to do with.
type ProbeInput struct {
	// Principals and StorePaths are the bounds of all environments, as globs.
	Principals []string
	StorePaths []string
	// Scans: the account is scanned for keys that nobody declared.
	Scans bool
}

// Probed is what an account answered.
type Probed struct {
	// As is who the worker is there; empty where nobody asks.
	As string `json:"as,omitempty"`
	// Lacks are rights that the worker lacks, as sentences for people that say what to do; none when all is well.
	Lacks []string `json:"lacks,omitempty"`
	// Untried are rights that could not be tried without changing something, for people.
	Untried []string `json:"untried,omitempty"`
}

// UsageEvent is one use of a key, from the issuer's own audit log.
type UsageEvent struct {
	KeyID  string    `json:"keyID"`
	At     time.Time `json:"at"`
	Action string    `json:"action"`
	From   string    `json:"from"`
}

// AuditLog is an Issuer that remembers who used a key.
type AuditLog interface {
	// Usage returns the uses of a key since then, oldest first, at most limit.
	Usage(ctx context.Context, k key.Ref, since time.Time, limit int) ([]UsageEvent, error)
}

// Label is a staging label of a store.
type Label string

// The labels. A version bears any number of them, a label is on at most one version.
const (
	Current  Label = "CURRENT"
	Pending  Label = "PENDING"
	Previous Label = "PREVIOUS"
)

// Version is one version of a stored secret.
type Version struct {
	ID     string  `json:"id"`
	Labels []Label `json:"labels,omitempty"`
	// Token is the one that Stage was called with, where the store remembers it; often it is the ID.
	Token     string    `json:"token,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	// LabelledAt is when the version last got a label, zero where the store does not tell.
	LabelledAt time.Time `json:"labelledAt,omitzero"`
}

// Has tells whether the version bears the label.
func (v Version) Has(l Label) bool {
	for _, have := range v.Labels {
		if have == l {
			return true
		}
	}
	return false
}

// Store keeps the versions of one credential's secret under labels, and keyturn's metadata of it.
type Store interface {
	// Versions lists all that exist, oldest first; none for a secret that does not exist yet.
	// ErrDenied with a reason when something else manages the secret (native rotation).
	Versions(ctx context.Context) ([]Version, error)
	// Read returns the whole bundle of a version, foreign fields included. ErrNotFound. The caller
	// closes it.
	Read(ctx context.Context, version string) (secret.Bundle, error)
	// ReadLabel returns the bundle that a consumer gets who asks for the label; an empty label is what a
	// default read yields. ErrNotFound when no version bears it.
	ReadLabel(ctx context.Context, l Label) (secret.Bundle, error)
	// Stage adds a version with the bundle's fields laid over the foreign fields of CURRENT, and gives
	// it PENDING alone. A default read goes on yielding CURRENT (ErrNotFound when there is none).
	// Again with the same token and bundle: the same version. With another bundle: ErrConflict.
	Stage(ctx context.Context, token string, b secret.Bundle) (version string, err error)
	// Promote moves CURRENT from one version to another by compare-and-swap, PREVIOUS to the one that
	// had it, and takes PENDING from the new one. An empty from means that there is no CURRENT. It is
	// also the way back. Promoting what is already so is not an error; ErrConflict when CURRENT is on a
	// third version; ErrNotFound when to does not exist.
	Promote(ctx context.Context, from, to string) error
	// Prune removes a version for good, whatever labels it bears but CURRENT (ErrDenied). A version that
	// does not exist is not an error.
	Prune(ctx context.Context, version string) error
	// Metadata returns keyturn's own record of the credential, with its revision; the zero one when there is none.
	Metadata(ctx context.Context) (Metadata, error)
	// PutMetadata replaces the record that m was read as, by compare-and-swap on m.Revision, and returns the revision
	// that it is now. ErrConflict, with nothing changed, when somebody else wrote since. The same m again, since the
	// reply got lost, is the same write while it is the last one. It works before any version exists.
	PutMetadata(ctx context.Context, m Metadata) (Revision, error)
}

// Metadata is the truth about a credential that outlives Temporal's retention. Only the activities of
// its one live rotation write it.
type Metadata struct {
	// Revision is what this was read as. It goes with the value and with nothing else, so that a change of what was read
	// once is never written over what somebody wrote since.
	Revision Revision `json:"-"`
	// Lease says who may act on the credential; nil when nobody holds one.
	Lease *Lease `json:"lease,omitempty"`
	// Inventory and Environment are those of the specs that govern the credential, from the first key that was
	// issued by one; empty before. No other inventory's or environment's specs act on it.
	Inventory   string `json:"inventory,omitempty"`
	Environment string `json:"environment,omitempty"`
	// Generation is the highest spec generation that a key was issued with.
	Generation int64 `json:"generation,omitempty"`
	// Intents are of the mints that are not resolved: each is written before its mint, and goes when it is known what became of
	// that. Several are there when mints were interrupted.
	Intents []MintIntent `json:"intents,omitempty"`
	// Keys are the keys that are ours: live ones, and dead ones of which something is left to clean up.
	Keys []OwnedKey `json:"keys,omitempty"`
	// LastRotation is how the last one ended.
	LastRotation *LastRotation `json:"lastRotation,omitempty"`
	// RotateBy is when the cryptoperiod of the current key ends.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Debt is what finished runs still owe.
	Debt []Debt `json:"debt,omitempty"`
}

// Key returns the owned key with this ID.
func (m Metadata) Key(keyID string) (OwnedKey, bool) {
	for _, k := range m.Keys {
		if k.KeyID == keyID {
			return k, true
		}
	}
	return OwnedKey{}, false
}

// Owes tells whether a finished run owes this.
func (m Metadata) Owes(kind, about string) bool {
	for _, d := range m.Debt {
		if d.Kind == kind && d.About == about {
			return true
		}
	}
	return false
}

// LeaseTerm is how long a lease is held that nobody renews.
const LeaseTerm = time.Hour

// Lease is held by one run. It has no time of its own: each renewal is a revision of its own, and whoever wants the lease
// must see one revision for the whole term, by their own clock.
type Lease struct {
	Namespace string `json:"namespace"`
	// Workflow is the ID of the holder's workflow, or LeaseOfImport.
	Workflow string        `json:"workflow"`
	Rotation string        `json:"rotation,omitempty"`
	Run      string        `json:"run,omitempty"`
	Term     time.Duration `json:"term"`
}

// LeaseOfImport is in place of a workflow's ID where a person imports a key on the worker's host.
const LeaseOfImport = "import"

// MintIntent proves after a crash which key is an orphan of ours: one of Principal that is not in Known, that no store version
// holds, and that was made with the mint's token or within the time of its call. That call makes one key at most.
type MintIntent struct {
	Rotation string `json:"rotation"`
	Ordinal  int    `json:"ordinal"`
	// Run is the one that mints.
	Run string `json:"run,omitempty"`
	// Principal is empty where the issuer has one.
	Principal string    `json:"principal,omitempty"`
	At        time.Time `json:"at"`
	// Within is how long after At the call may still make a key: the longest issue attempt of who wrote this.
	Within time.Duration `json:"within"`
	// Known are the key IDs that the issuer had before the mint.
	Known []string `json:"known,omitempty"`
}

// Is tells whether two intents are of the same call.
func (i MintIntent) Is(other MintIntent) bool {
	return i.Rotation == other.Rotation && i.Ordinal == other.Ordinal && i.Run == other.Run && i.At.Equal(other.At)
}

// OwnedKey is a key that keyturn minted or adopted.
type OwnedKey struct {
	key.Ref
	IssuedAt time.Time `json:"issuedAt,omitzero"`
	// Rotation is the one that minted it; empty for an adopted key.
	Rotation string `json:"rotation,omitempty"`
	// VerifiedAt is when keyturn saw it work, and last used it itself, before it was delivered to anybody; zero for
	// an adopted key.
	VerifiedAt time.Time `json:"verifiedAt,omitzero"`
	// DeliveredAt is when its latest delivery began, its promotion to those who read the store included.
	DeliveredAt time.Time `json:"deliveredAt,omitzero"`
	// AttestedAt is when the last wave that it was delivered to was seen to attest it.
	AttestedAt time.Time `json:"attestedAt,omitzero"`
	// AttestedReport is as of when the issuer reported uses then, by its own clock; zero where a report has no time.
	AttestedReport time.Time `json:"attestedReport,omitzero"`
	// TurnedBackAt is when a rotation turned back from it: none goes on with it.
	TurnedBackAt time.Time `json:"turnedBackAt,omitzero"`
	// PromotedAt is when it became CURRENT, by keyturn's doing.
	PromotedAt time.Time `json:"promotedAt,omitzero"`
	// KeptAt is when a rotation ended with it in CURRENT, after its overlap: from then on nothing leads back from it.
	KeptAt time.Time `json:"keptAt,omitzero"`
	// DisablingAt is when keyturn last began to disable it; zero once that was taken back, and for a key that
	// somebody else had disabled.
	DisablingAt time.Time `json:"disablingAt,omitzero"`
	// DisablingReport is as of when the issuer reported uses then, by its own clock; zero where a report has no time.
	DisablingReport time.Time `json:"disablingReport,omitzero"`
	// DisabledAt is when keyturn had disabled it, or found it so; Approvals are the nonces of the approvals that it
	// began to do so on.
	DisabledAt time.Time `json:"disabledAt,omitzero"`
	Approvals  []string  `json:"approvals,omitempty"`
	// ProbedAt is when it was destroyed and seen to be refused.
	ProbedAt time.Time `json:"probedAt,omitzero"`
	// Spent are approvals of a disabling that was taken back: they never count again.
	Spent []string `json:"spent,omitempty"`
}

// BeingDisabled tells whether keyturn began to disable the key, and has not written that it ended.
func (k OwnedKey) BeingDisabled() bool { return !k.DisablingAt.IsZero() && k.DisabledAt.IsZero() }

// LastRotation is the outcome of a finished run.
type LastRotation struct {
	ID      string    `json:"id"`
	Outcome string    `json:"outcome"`
	At      time.Time `json:"at"`
}

// Debt is something that a finished run still owes.
type Debt struct {
	// Kind is retired-key-alive, incoming-key-alive, version-left, copies-left, not-proved-dead or not-looked-at.
	Kind string `json:"kind"`
	// About names the key, instance or version.
	About string    `json:"about"`
	Since time.Time `json:"since"`
}

// Delivery is a key on its way to one instance.
type Delivery struct {
	Instance string
	Key      key.Ref
	Bundle   secret.Bundle
}

// Target brings keys to the instances of one consumer.
type Target interface {
	// Deliver makes the instance's copy the given key, atomically: it has the old one or the new one,
	// whole. Delivering what is there already is not an error and does not disturb the consumer.
	Deliver(ctx context.Context, d Delivery) error
	// Reach tells, changing nothing, whether Deliver could work now.
	Reach(ctx context.Context, instance string) error
}

// Purger removes the copies of a key that outlive a delivery: a Target whose instance keeps what it had before, or a
// purge hook, which makes an instance forget what it cached.
type Purger interface {
	// Purge removes every copy of the key but the live one; that one it must not be for a Target. A hook is called after
	// each delivery, also when there is nothing to forget; with the zero key, all that is cached goes.
	Purge(ctx context.Context, instance string, k key.Ref) error
}

// Holder is a Target that can tell what is in place.
type Holder interface {
	// Holds tells, changing nothing, whether the instance's copy is the key of the delivery, whole: what a process that
	// starts now begins with. An instance without a copy holds none.
	Holds(ctx context.Context, d Delivery) (bool, error)
}

// Attestor states which key the instances of one consumer use now.
type Attestor interface {
	// Attest returns one statement for each instance that answered. An error says why some did not; the
	// statements of the others are valid beside it.
	Attest(ctx context.Context, instances []string) ([]key.Statement, error)
}

// CheckInput is what a check may use. A check of an instance gets no bundle, a smoke test no instance.
type CheckInput struct {
	Instance string
	Key      key.Ref
	Bundle   secret.Bundle
}

// Check is a health check of an instance, or a smoke test of a key.
type Check interface {
	// Check returns nil when all is well and ErrKeyRefused when the peer refused the key; any other
	// error means that the peer is not well or could not be asked.
	Check(ctx context.Context, in CheckInput) error
}

// HealthSignal counts requests and errors.
type HealthSignal interface {
	// Sample reads the counters, over the window where the source can. ErrNoData.
	Sample(ctx context.Context, window time.Duration) (key.Sample, error)
}

// Severity of a notification.
type Severity string

// The severities.
const (
	Info   Severity = "info"
	Action Severity = "action" // somebody must do something
	Alert  Severity = "alert"
)

// Notification is a message to people. Nothing in it is secret.
type Notification struct {
	// ID is the same for each repetition of the same message.
	ID string `json:"id"`
	// Type is a reverse-DNS event type, such as dev.keyturn.gate.opened.
	Type       string            `json:"type"`
	Severity   Severity          `json:"severity"`
	Credential string            `json:"credential"`
	Owner      string            `json:"owner"`
	Subject    string            `json:"subject"`
	Body       string            `json:"body"`
	At         time.Time         `json:"at"`
	Data       map[string]string `json:"data,omitempty"`
}

// Notifier tells people.
type Notifier interface {
	// Notify may deliver the same ID more than once.
	Notify(ctx context.Context, n Notification) error
}
