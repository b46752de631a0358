package policy

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/key"
)

// MintWithin is the longest issue attempt: the call of a mint is not waited for longer after its intent. What is judged of an
// intent is judged by the time that it names itself.
const MintWithin = time.Minute

// trace is what an intent says of a key that nothing else accounts for.
type trace int

const (
	// madeElsewhere: its mint did not make the key.
	madeElsewhere trace = iota
	// madeUnplaced: the key was not there before the mint, and the issuer tells a time at which it cannot have been made.
	// The two clocks differ, or the issuer lists late, so that no time of that key proves anything.
	madeUnplaced
	// madeByIt: the key bears the mint's token, or, where the issuer knows none, was made within the time of the call.
	madeByIt
)

func traced(i key.Intent, k key.Info, now time.Time) trace {
	switch {
	case slices.Contains(i.Known, k.KeyID), i.Principal != "" && i.Principal != k.Principal:
		return madeElsewhere
	case k.Token != "":
		if k.Token == Token(i.Rotation, i.Ordinal) {
			return madeByIt
		}
		return madeElsewhere
	case k.CreatedAt.Before(i.At.Add(-clockGrain)):
		return madeUnplaced
	case !k.CreatedAt.After(i.At.Add(i.Within)):
		return madeByIt
	case k.CreatedAt.After(now.Add(clockGrain)):
		return madeUnplaced
	}
	return madeElsewhere
}

// makers are the intents whose mint may have made a key: of one without a token that may be several, since their times overlap.
func makers(intents []key.Intent, k key.Info, now time.Time) []key.Intent {
	var made []key.Intent
	for _, i := range intents {
		if traced(i, k, now) == madeByIt {
			made = append(made, i)
		}
	}
	return made
}

// ResolvedWith is the intent that is resolved once a key is recorded or destroyed: that of the mint that made it. Where several
// may have made it, it is none of them: each of the others may have made another key, which the issuer does not list yet. They go
// with the first list that is late enough to show it (Resolved). That of a key that is recorded went with the recording.
func ResolvedWith(f Facts, keyID string) []key.Intent {
	k, live := f.Live(keyID)
	owned, recorded := f.Metadata.Key(keyID)
	if made := makers(f.Metadata.Intents, k, f.At); live && len(made) == 1 && (!recorded || Lost(owned)) {
		return made
	}
	return nil
}

// stray tells whether nothing but an intent may account for a key: it is in no store version, not in the metadata and not
// adopted. Nor was it used, where the issuer knows no tokens: the value of ours was told to nobody.
func (f Facts) stray(adopt []string, k key.Info) bool {
	_, owned := f.Metadata.Key(k.KeyID)
	stored := slices.ContainsFunc(f.Versions, func(v StoredKey) bool { return v.KeyID == k.KeyID })
	return !owned && !stored && !slices.Contains(adopt, k.KeyID) && (k.Token != "" || k.LastUsedAt.IsZero())
}

// Orphans are the keys that mint intents prove to be ours: minted with the token of one, or, at an issuer that knows no tokens,
// not there before the mint and made within the time of its call; and in no store version, not in the metadata, never used.
func (f Facts) Orphans(adopt []string) []string {
	var orphans []string
	for _, k := range f.Keys {
		if f.stray(adopt, k) && k.LastUsedAt.IsZero() && len(makers(f.Metadata.Intents, k, f.At)) > 0 {
			orphans = append(orphans, k.KeyID)
		}
	}
	return orphans
}

// mayBeOf tells whether a stray key may be what a mint made: a time that cannot be placed beside one call says nothing of a key
// that another call accounts for.
func (f Facts) mayBeOf(i key.Intent, adopt []string, k key.Info) bool {
	if !f.stray(adopt, k) {
		return false
	}
	made := traced(i, k, f.At)
	return made == madeByIt || made == madeUnplaced && len(makers(f.Metadata.Intents, k, f.At)) == 0
}

// unproved is why a key is not proved to be an orphan, though the mint of an intent may have made it.
func (f Facts) unproved(adopt []string, k key.Info) Decision {
	at := slices.IndexFunc(f.Metadata.Intents, func(i key.Intent) bool { return f.mayBeOf(i, adopt, k) })
	if at < 0 {
		return allow("no interrupted mint may have made key %s", k.KeyID)
	}
	i := f.Metadata.Intents[at]
	switch {
	case !k.LastUsedAt.IsZero():
		return refuse(OrphanInUse, "key %s of %s has the token of a mint that was interrupted (rotation %s, %s), and was used since (%s), though keyturn told its value to nobody: "+
			"find out who has it, and destroy it at the issuer; or name it under adopt", k.KeyID, k.Principal, i.Rotation, ago(i.At), ago(k.LastUsedAt))
	case traced(i, k, f.At) == madeUnplaced:
		return refuse(OrphanUnplaced, "whether key %s of %s is of a mint that was interrupted (rotation %s, %s) cannot be told: it was not there before, and was made %s by the issuer's clock, "+
			"which shows another time than the worker's: destroy it at the issuer if nobody made it by hand; if somebody did, name it under adopt",
			k.KeyID, k.Principal, i.Rotation, ago(i.At), ago(k.CreatedAt))
	}
	return allow("key %s is an orphan", k.KeyID)
}

// Unclear are the reasons not to mint beside what interrupted mints left: keys of which it is not proved whose they are.
func Unclear(f Facts, adopt []string) []Decision {
	var no []Decision
	for _, k := range f.Keys {
		if d := f.unproved(adopt, k); !d.OK && k.State == key.Active {
			no = append(no, d)
		}
	}
	if d := Ambiguous(f, adopt); !d.OK {
		no = append(no, d)
	}
	return no
}

// Ambiguous refuses when interrupted mints cannot have made all the keys that each of them may have made: a call makes one at
// most, so that one of them is somebody else's, and which one is not known.
func Ambiguous(f Facts, adopt []string) Decision {
	ours := f.Orphans(adopt)
	for _, k := range f.Metadata.Keys {
		if Lost(k) { // an orphan that is to be destroyed
			ours = append(ours, k.KeyID)
		}
	}
	// Keys are in the order of their times. Of the calls that may have made one, that which was over first is the one that the
	// later keys can do without.
	left := slices.Clone(f.Metadata.Intents)
	slices.SortStableFunc(left, func(a, b key.Intent) int { return a.At.Add(a.Within).Compare(b.At.Add(b.Within)) })
	var claimed []string
	tooMany := false
	for _, k := range f.Keys {
		if !slices.Contains(ours, k.KeyID) || len(makers(f.Metadata.Intents, k, f.At)) == 0 {
			continue
		}
		claimed = append(claimed, k.KeyID)
		at := slices.IndexFunc(left, func(i key.Intent) bool { return traced(i, k, f.At) == madeByIt })
		if at < 0 {
			tooMany = true
			continue
		}
		left = slices.Delete(left, at, at+1)
	}
	if tooMany {
		return refuse(AmbiguousOrphan, "keys %v all may come from %s: destroy at the issuer those that are not in use", claimed, Counted(len(f.Metadata.Intents), "interrupted mint"))
	}
	return allow("each orphan has a mint of its own")
}

// Resolved are the intents whose mint left nothing: the list of keys was taken when the call was over and the issuer had time to
// show what it made, and none in it may be of it.
func Resolved(f Facts, adopt []string) []key.Intent {
	listed := f.At.Add(-f.LookedFor)
	var done []key.Intent
	for _, i := range f.Metadata.Intents {
		late := listed.After(i.At.Add(i.Within + f.Capabilities.ConsistentWithin))
		if late && !slices.ContainsFunc(f.Keys, func(k key.Info) bool { return f.mayBeOf(i, adopt, k) }) {
			done = append(done, i)
		}
	}
	return done
}

// Unlisted tells whether an interrupted mint may have made a key that the issuer does not list yet.
func Unlisted(f Facts, adopt []string) bool {
	return len(f.Metadata.Intents)-len(Resolved(f, adopt)) > len(f.Orphans(adopt))
}

// OthersMintFor is for how long a mint of another run may still make a key. The run that took over lists, and mints, after that.
func OthersMintFor(m key.Metadata, run string, now time.Time) time.Duration {
	var left time.Duration
	for _, i := range m.Intents {
		if i.Run != run {
			left = max(left, i.At.Add(i.Within).Sub(now))
		}
	}
	return left
}

// Lost tells whether a key was minted and never stored, by the record of it.
func Lost(k key.Owned) bool {
	return k.Rotation != "" && k.StoreVersion == "" && k.PromotedAt.IsZero()
}

// MayDestroyOrphan judges a key that an interrupted mint made, as far as the intent proves: without a token, another may have
// made it at the same moment. Where the issuer tells late of uses, such a one is disabled until it is known that it was not used
// before. OrphanNotQuiet passes by itself; with OrphanInUse it is somebody else's, or somebody has it; with NotOurs it is no orphan any more.
func MayDestroyOrphan(f Facts, adopt []string, orphan key.Ref) Decision {
	k, live := f.Live(orphan.KeyID)
	owned, recorded := f.Metadata.Key(orphan.KeyID)
	standing := f.Standings(adopt)[orphan.KeyID]
	switch lag := f.Capabilities.UsageLag; {
	case !live:
		return allow("key %s does not exist any more", orphan.KeyID)
	case !k.LastUsedAt.IsZero() && k.Token != "":
		return refuse(OrphanInUse, "key %s was minted and its value told to nobody, and it was used since: find out who has it, and destroy it at the issuer; or name it under adopt", k.KeyID)
	case !k.LastUsedAt.IsZero():
		return refuse(OrphanInUse, "key %s was made while a mint was interrupted, and was used since, so that it is somebody else's: name it under adopt, or destroy it at the issuer", k.KeyID)
	case standing != StandingOrphan && (!recorded || !Lost(owned)):
		return refuse(NotOurs, "key %s is %s, not that of an interrupted mint", k.KeyID, standing)
	case k.Token != "":
		return allow("key %s has the token of the mint", orphan.KeyID)
	case !f.Capabilities.ReportsUsage:
		return allow("the issuer does not report usage")
	case lag == 0:
		return allow("key %s was never used", k.KeyID)
	default:
		since := k.CreatedAt
		if f.Capabilities.CanDisable {
			since = owned.DisabledAt
		}
		if f.Capabilities.CanDisable && (k.State != key.Disabled || since.IsZero()) {
			return refuse(OrphanNotQuiet, "key %s of an interrupted mint is not disabled yet", k.KeyID)
		}
		if until := since.Add(lag); f.At.Before(until) {
			return refuse(OrphanNotQuiet, "key %s of an interrupted mint is destroyed when it is known that nobody used it, so not before %s", k.KeyID, until.UTC().Format(time.RFC3339))
		}
		return allow("nobody used key %s", k.KeyID)
	}
}
