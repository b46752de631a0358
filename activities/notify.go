package activities

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/workerconfig"
	"github.com/keyturn/keyturn/providers"
)

// maxBody bounds, in bytes, the body of a message to people.
const maxBody = 8 * outside.MaxText

// NotifyInput is a message of a rotation.
type NotifyInput struct {
	Rotation
	Message
}

// Message is one to people.
type Message struct {
	// What happened, in one word; with the rotation it makes the message's ID.
	What     string    `json:"what"`
	Severity string    `json:"severity"`
	Subject  string    `json:"subject"`
	Body     string    `json:"body"`
	At       time.Time `json:"at"`
}

// Notify tells the notifiers that the spec names, or all of them. One that fails does not keep the
// others from hearing; it is tried again, with the same ID. Who can have a text of their own sent is who signs specs:
// that a spec is not trusted any more is told to all, in words of keyturn's.
func (a *Activities) Notify(ctx context.Context, in NotifyInput) error {
	name, rotates := Credential(activity.GetInfo(ctx).WorkflowExecution.ID)
	spec, _, err := a.spec(in.Spec)
	if errors.Is(err, ErrUntrusted) && rotates {
		// Whom the spec names does not count.
		spec = inventory.Spec{Credential: inventory.Credential{Name: name}}
		in.What, in.Severity, in.Subject = "held", string(providers.Alert), "The spec of "+name+" is not trusted"
		in.Body = "Nothing is done by it. See what the rotation waits for with: keyturn status " + name
		err = nil
	}
	if err == nil && (!rotates || spec.Credential.Name != name) {
		err = fmt.Errorf("telling of %q: %w: workflow %q is not its rotation", spec.Credential.Name, ErrSpec, activity.GetInfo(ctx).WorkflowExecution.ID)
	}
	if err != nil {
		return forTemporal(err)
	}
	message := providers.Notification{
		ID: outside.Text(in.ID, outside.MaxText) + "/" + in.What + "/" + in.At.UTC().Format(time.RFC3339), Type: "dev.keyturn.rotation." + in.What,
		Severity: providers.Severity(in.Severity), Subject: outside.Text(in.Subject, outside.MaxText), Body: outside.Lines(in.Body, maxBody), At: in.At,
		Credential: spec.Credential.Name, Owner: spec.Credential.Owner, Data: a.whereToLook(ctx),
	}
	if link := message.Data["url"]; link != "" {
		message.Body = outside.Lines(message.Body+"\nSee "+link, maxBody)
	}
	return forTemporal(a.send(ctx, message, spec.Credential.Notify))
}

// whereToLook tells which run a message is of, and where people see it.
func (a *Activities) whereToLook(ctx context.Context) map[string]string {
	run := activity.GetInfo(ctx).WorkflowExecution
	data := map[string]string{"workflow": run.ID, "run": run.RunID}
	if web := strings.TrimSuffix(a.Config().WebUI, "/"); web != "" {
		data["url"] = web + "/namespaces/" + url.PathEscape(a.Namespace) + "/workflows/" + url.PathEscape(run.ID) + "/" + url.PathEscape(run.RunID)
	}
	return data
}

// send tells notifiers by name, or all of them when none is named.
func (a *Activities) send(ctx context.Context, message providers.Notification, wanted []string) error {
	var failed []error
	for _, n := range a.Config().Notify {
		if len(wanted) > 0 && !slices.Contains(wanted, n.Name) {
			continue
		}
		failed = append(failed, a.tell(ctx, n, message))
	}
	return errors.Join(failed...)
}

// tell sends a message to one notifier.
func (a *Activities) tell(ctx context.Context, n workerconfig.Notifier, message providers.Notification) error {
	i := slices.IndexFunc(a.Descriptors, func(d providers.Descriptor) bool { return d.Type == n.Type && d.Notifier != nil })
	if i < 0 {
		return fmt.Errorf("notifier type %q: %w", n.Type, providers.ErrUnsupported)
	}
	notifier, err := a.Descriptors[i].Notifier.Open(a.Config().NotifierEnvironment(), nil, n.Settings)
	if err == nil {
		err = notifier.Notify(ctx, message)
	}
	if err != nil {
		return fmt.Errorf("notifier %s %s: %w", n.Type, n.Name, err)
	}
	return nil
}
