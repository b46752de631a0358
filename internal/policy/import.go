package policy

import (
	"strings"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// Importing is a key that a person brings, which existed before keyturn.
type Importing struct {
	// Key names it: its ID at the issuer, or the one that it is to get, and the version that has its value, if one has.
	Key key.Ref
	// Known: the issuer has the key, by its value. CanImport: it takes one that it does not have.
	Known, CanImport bool
	// Unattested: the person goes on though consumers do not attest it.
	Unattested bool
}

// MayImport judges whether a key that existed before keyturn may become the one in CURRENT, by facts of this moment: no other key
// is that, no rotation left something that is not resolved, the issuer accepts the key or has room to take it, and every consumer
// attests it, since it is the one that a rollback of the first rotation leads to.
func MayImport(c inventory.Credential, f Facts, in Importing) Decision {
	if d := f.notExposed(in.Key.KeyID); !d.OK {
		return d
	}
	current, stored := f.Version(key.Current)
	pending, unfinished := f.Unfinished()
	live, named := f.Live(in.Key.KeyID)
	switch {
	case stored && current.ID != in.Key.StoreVersion:
		return refuse(CurrentIsAnother, "version %s of the store is CURRENT, and has another value: an import takes the place of no key. Rotate instead, or bring the key that the store has", current.ID)
	case unfinished && pending.ID != in.Key.StoreVersion:
		return refuse(UnfinishedRotation, "version %s of the store is PENDING, by a rotation or a person, and has another value: let a rotation go on with it", pending.ID)
	case len(f.Metadata.Intents) > 0:
		return refuse(UnfinishedRotation, "rotation %q has begun to mint a key, and what became of that is not known: let a rotation go on first", f.Metadata.Intents[0].Rotation)
	case !in.Known && named:
		return refuse(NotAtIssuer, "key %s of the issuer has another value: bring that one, or name this one otherwise", live.KeyID)
	case !in.Known && !in.CanImport:
		return refuse(NotAtIssuer, "the issuer has no such key among those of this principal, and takes none from elsewhere")
	case !in.Known && f.Capabilities.Slots > 0 && len(f.Keys) >= f.Capabilities.Slots:
		return refuse(SlotsFull, "%s: destroy a key that nobody uses", takenSlots(f.Capabilities.Slots, "the principal"))
	case in.Known && live.State != key.Active:
		return refuse(RetiringKeyDisabled, "key %s is not active at the issuer", live.KeyID)
	}
	if missing := Unattested(f.Instances, in.Key); len(missing) > 0 && !in.Unattested {
		return refuse(ConsumerNotAttesting, "not every consumer is seen on the key, so that a rollback would bring it to who does not use it: %s", told(missing))
	}
	if !in.Known {
		return allow("the issuer has room for it")
	}
	return f.accepted(c, in.Key.KeyID, KeyNotWorking)
}

// MayWithdraw judges whether an issuer that took a key in an import may forget it again, since the import is refused: before it, the issuer
// accepted it from nobody.
func MayWithdraw(f Facts, imported key.Ref) Decision {
	for _, i := range f.Instances {
		if i.Statement != nil && i.Statement.Holds(imported) {
			return refuse(RetiringStillHeld, "%s states that it uses it", i.Name())
		}
	}
	if k, live := f.Live(imported.KeyID); live && !k.LastUsedAt.IsZero() {
		return refuse(RetiringNotQuiet, "somebody has used it, last %s", ago(k.LastUsedAt))
	}
	return allow("nobody is seen to use it")
}

// Unattested lists the instances that do not attest a key, and why.
func Unattested(instances []Instance, wanted key.Ref) []Decision {
	var missing []Decision
	for _, i := range instances {
		switch {
		case i.Statement == nil:
			missing = append(missing, refuse(ConsumerNotAttesting, "%s does not state which key it uses: %s", i.Name(), i.NotAttesting))
		case i.Statement.Split:
			missing = append(missing, refuse(ConsumerOnOtherKey, "the replicas of %s do not all use it: asked again and again, it states %v", i.Name(), i.Statement.Keys))
		case !i.Statement.Holds(wanted):
			missing = append(missing, refuse(ConsumerOnOtherKey, "%s states key %v", i.Name(), i.Statement.Keys))
		}
	}
	return named(missing)
}

// told puts reasons in one sentence.
func told(list []Decision) string {
	texts := make([]string, 0, len(list))
	for _, d := range list {
		texts = append(texts, d.Message)
	}
	return strings.Join(texts, "; ")
}
