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

	"github.com/keyturn/keyturn/internal/audit"
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

// Issuer mints and revokes the keys of one credential: it is opened for its principal, or for the two
// that alternate.
type Issuer interface {
	Capabilities(ctx context.Context) (key.Capabilities, error)
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

// Importer is an Issuer that can take a key that exists already, in whatever form.
type Importer interface {
	// Prepare makes what the account keeps its keys in, where there is none yet, and names for people what it made. What is there
	// stays as it is.
	Prepare(ctx context.Context) (made []string, err error)
	// Import has the issuer accept the key from now on, whose slots do not bound it. Again with the same is the same key.
	// ErrConflict, with nothing changed, when the ID is that of another key, or the bundle that of another ID or principal; ErrInvalid for an ID or a
	// bundle that cannot be.
	Import(ctx context.Context, r ImportRequest, b secret.Bundle) (key.Info, error)
}

// ImportRequest says what a key that exists is to be at the issuer.
type ImportRequest struct {
	// KeyID is what it is called there. It may be empty for a key that says its own.
	KeyID  string
	Scopes []string
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

type urgent struct{}

// Urgent marks calls that go before others where an account's quota makes them wait: those of an emergency.
func Urgent(ctx context.Context) context.Context { return context.WithValue(ctx, urgent{}, true) }

// IsUrgent tells whether calls are so marked.
func IsUrgent(ctx context.Context) bool { return ctx.Value(urgent{}) != nil }

// Paced is an account that bounds its calls by itself: with its quota, a call that is beyond it waits as long as its caller does. An
// account's type that does not implement it is paced by the activities of its queue alone.
type Paced interface {
	// Pace is called once, before the account is used.
	Pace(perSecond float64)
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
	As string
	// Lacks are rights that the worker lacks, as sentences for people that say what to do; none when all is well.
	Lacks []string
	// Untried are rights that could not be tried without changing something, for people.
	Untried []string
}

// AuditLog is an Issuer that remembers who used a key.
type AuditLog interface {
	// Uses returns what is known of the uses of a key since then, also of one that is destroyed: those that are alike as one, as
	// key.Tally gathers them. A use that was refused is one, with the reason, where the issuer knows of it. What it cannot know is
	// said by Unseen, and never an error; neither is a key of which nothing is known. ErrDenied, ErrThrottled.
	Uses(ctx context.Context, k key.Ref, since time.Time) (key.Uses, error)
}

// Store keeps the versions of one credential's secret under labels, and keyturn's metadata of it.
type Store interface {
	// Versions lists all that exist, oldest first; none for a secret that does not exist yet. What a version holds never changes, and
	// no later one has its ID: that is remembered in the metadata.
	// ErrDenied with a reason when something else manages the secret (native rotation).
	Versions(ctx context.Context) ([]key.Version, error)
	// Read returns the whole bundle of a version, foreign fields included. ErrNotFound. The caller
	// closes it.
	Read(ctx context.Context, version string) (secret.Bundle, error)
	// ReadLabel returns the bundle that a consumer gets who asks for the label; an empty label is what a
	// default read yields. ErrNotFound when no version bears it.
	ReadLabel(ctx context.Context, l key.Label) (secret.Bundle, error)
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
	Metadata(ctx context.Context) (key.Metadata, error)
	// PutMetadata replaces the record that m was read as, by compare-and-swap on m.Revision, and returns the revision
	// that it is now. ErrConflict, with nothing changed, when somebody else wrote since. The same m again, since the
	// reply got lost, is the same write while it is the last one. It works before any version exists.
	PutMetadata(ctx context.Context, m key.Metadata) (key.Revision, error)
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

// RightsChanger is a Target that can tell beforehand which rights a delivery would change.
type RightsChanger interface {
	// ChangesRights says, for people, what would change for whoever may read the instance's copy now; empty for nothing. It changes nothing.
	ChangesRights(ctx context.Context, instance string) (string, error)
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

// Fitter is a Target or a Check that can tell beforehand what it could not carry.
type Fitter interface {
	// Fits tells, asking nobody, whether each instance would get the bundle as it is: ErrInvalid when a part of it is missing, or
	// would be changed on its way, by what reads it, too.
	Fits(b secret.Bundle) error
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

// Freeze is a time in which nobody shall deploy, since exposed keys are replaced. Nothing in it is secret.
type Freeze struct {
	// Incident is its ID: the same for each repetition.
	Incident    string   `json:"incident"`
	Reason      string   `json:"reason"`
	Credentials []string `json:"credentials"`
	// Until is when it ends by itself, unless it is renewed.
	Until time.Time `json:"until"`
	// Override tells people how to end it before that.
	Override string `json:"override"`
}

// Freezer keeps others from deploying.
type Freezer interface {
	// Freeze begins a freeze, or renews the incident's. It may be called twice.
	Freeze(ctx context.Context, f Freeze) error
	// Unfreeze ends the incident's freeze. That there is none is no error, and one of another incident stays.
	Unfreeze(ctx context.Context, incident string) error
}

// Notifier tells people.
type Notifier interface {
	// Notify may deliver the same ID more than once.
	Notify(ctx context.Context, n Notification) error
}

// Collector takes copies of audit events, for a record that several workers share.
type Collector interface {
	// Collect returns nil once the event is taken. It may be handed over more than once. One call at a time.
	Collect(ctx context.Context, e audit.Numbered) error
}
