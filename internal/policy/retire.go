package policy

import (
	"strings"
	"unicode"

	"github.com/keyturn/keyturn/internal/inventory"
	"github.com/keyturn/keyturn/internal/key"
)

// MayRetire judges whether a run may begin that ends one leftover key which a person named: it is ours, not the current one,
// not exposed, and no instance states it. A refusal says what to do instead. What is not proved yet and may be, the run waits for.
func MayRetire(c inventory.Credential, f Facts, keyID string) Decision {
	_, live := f.Live(keyID)
	owned, _ := f.Metadata.Key(keyID)
	current, _ := f.Version(key.Current)
	kept, alive := f.Live(current.KeyID)
	standing := f.Standings(c.Adopt)[keyID]
	emergency := func(exposed string) string {
		return message("keyturn emergency %s --key %s=%s --sign KEY --reason ...", c.Name, c.Name, exposed)
	}
	switch {
	case !f.notExposed(keyID).OK:
		return refuse(KeyExposed, "key %s is exposed, by %s, and an emergency ends it, whoever uses it: %s", keyID, f.Metadata.Exposed[keyID], emergency(keyID))
	case !live:
		return refuse(KeyGone, "key %s does not exist at the issuer, so that there is nothing to end; it has %s", keyID, f.listed(c))
	case standing == StandingCurrent:
		return refuse(KeyCurrent, "key %s is the current one of %s: what replaces it is keyturn rotate %s; if it is exposed: %s", keyID, c.Name, c.Name, emergency(keyID))
	case standing == StandingOrphan, standing == StandingIncoming && Lost(owned):
		return refuse(UnfinishedRotation, "key %s was minted and never stored: the next rotation destroys it first: keyturn rotate %s", keyID, c.Name)
	case standing != StandingRetired && standing != StandingIncoming:
		return refuse(NotOurs, "key %s is not ours: name it under adopt of %s, apply that, and retire it then; or destroy it at the issuer. The issuer has %s", keyID, c.Name, f.listed(c))
	case !alive || kept.State != key.Active:
		return refuse(RetiringKeyNotLive, "the store's CURRENT is no active key, so that no other one is taken away: see with keyturn plan %s what a rotation would do", c.Name)
	case !f.notExposed(kept.KeyID).OK:
		return refuse(KeyExposed, "the current key %s is exposed, by %s, so that key %s may be all that is left; first: %s", kept.KeyID, f.Metadata.Exposed[kept.KeyID], keyID, emergency(kept.KeyID))
	}
	if users := onAnyOf(f.Instances, []key.Ref{f.Named(key.Ref{KeyID: keyID})}); len(users) > 0 {
		return refuse(RetiringStillHeld, "%s key %s: %s", uses(users), keyID, map[bool]string{
			true:  "the next rotation goes on with it, or brings them back: keyturn rotate " + c.Name,
			false: message("let them load the current key %s, and retire it then", kept.KeyID),
		}[standing == StandingIncoming])
	}
	if standing == StandingIncoming {
		if d := MayDiscard(c, f, f.Named(key.Ref{KeyID: keyID})); d.Reason == NothingKept {
			return d
		}
		return allow("key %s never became CURRENT, or was turned back from", keyID)
	}
	if promoted, _ := f.Metadata.Key(kept.KeyID); promoted.PromotedAt.IsZero() {
		return refuse(NotPromoted, "keyturn did not make the current key %s CURRENT, so that it cannot prove that everybody is on it: "+
			"import that key on the worker's host (keyturn-worker import %s -f FILE --config FILE), or rotate it (keyturn rotate %s), and retire key %s then", kept.KeyID, c.Name, c.Name, keyID)
	}
	return allow("key %s is retired, and left alive beside %s", keyID, kept.KeyID)
}

// RetireWith is the command that ends a leftover key, to be copied: an ID may come from whoever may write to the namespace.
func RetireWith(credential, keyID string) string {
	if strings.ContainsFunc(keyID, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.:/", r)
	}) {
		keyID = shellWord(keyID)
	}
	return message("keyturn retire %s --key %s --reason ...", credential, keyID)
}

// listed names the issuer's keys, for who named another one.
func (f Facts) listed(c inventory.Credential) string {
	if len(f.Keys) == 0 {
		return "no keys"
	}
	return f.Describe(c.Adopt)
}

// uses says that instances use something, the first of many.
func uses(instances []string) string {
	if len(instances) == 1 {
		return instances[0] + " uses"
	}
	return some(instances) + " use"
}
