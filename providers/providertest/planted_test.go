package providertest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/secret"
	"github.com/keyturn/keyturn/providers"
	"github.com/keyturn/keyturn/providers/providertest"
)

// A suite that cannot fail proves nothing. Here each is run against a provider that keeps its promises,
// and then against the same one with a bug planted in it, which the suite must find.

// recorder is a T that notes failure instead of reporting it.
type recorder struct {
	*testing.T
	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

func (r *recorder) Errorf(string, ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) FailNow() {
	r.Errorf("")
	runtime.Goexit()
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

// failures runs the cases and names those that failed.
func failures(t *testing.T, cases []providertest.Case) []string {
	var names []string
	for _, c := range cases {
		r := &recorder{T: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Run(r)
		}()
		<-done
		for _, f := range slices.Backward(r.cleanups) {
			f()
		}
		if r.failed {
			names = append(names, c.Name)
		}
	}
	return names
}

// planted runs a suite without and with each bug. Time is synctest's, so waiting takes none.
func planted[Bugs any](t *testing.T, cases func(Bugs) []providertest.Case, bugs map[string]Bugs) {
	t.Run("no bug", func(t *testing.T) {
		t.Parallel()
		var none Bugs
		synctest.Test(t, func(t *testing.T) { assert.Empty(t, failures(t, cases(none))) })
	})
	for name, bug := range bugs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				noticed := slices.ContainsFunc(cases(bug), func(c providertest.Case) bool { return len(failures(t, []providertest.Case{c})) > 0 })
				assert.True(t, noticed, "the suite did not notice")
			})
		})
	}
}

// stall is a peer that never answers, as a caller sees it who honours its context, or who only half
// does.
func stall(ctx context.Context, deaf bool) error {
	if deaf {
		<-time.After(time.Minute)
		return errors.New("no answer")
	}
	<-ctx.Done()
	return ctx.Err()
}

const tooLong = 1600

type checkBugs struct {
	alwaysWell, refusedIsPlain, illIsRefused, silentIsRefused, deaf, tellsKey, tellsAll, tellsControl, closesKey, onlyOnce, oneAtATime bool
}

type check struct {
	bugs  checkBugs
	peer  providertest.Peer
	calls atomic.Int32
	busy  atomic.Bool
}

func (c *check) Check(ctx context.Context, in providers.CheckInput) error {
	if c.bugs.closesKey {
		defer in.Bundle.Close()
	}
	if c.bugs.oneAtATime {
		if !c.busy.CompareAndSwap(false, true) {
			return errors.New("busy")
		}
		<-time.After(time.Millisecond)
		defer c.busy.Store(false)
	}
	if c.bugs.onlyOnce && c.calls.Add(1) > 1 {
		return errors.New("asked before")
	}
	v, _ := in.Bundle.Field(secret.ValueField)
	switch {
	case c.peer == providertest.Well || c.bugs.alwaysWell:
		return nil
	case c.peer == providertest.Silent:
		err := stall(ctx, c.bugs.deaf)
		if c.bugs.silentIsRefused {
			return providers.ErrKeyRefused
		}
		return err
	case c.peer == providertest.Refusing && !c.bugs.refusedIsPlain, c.peer == providertest.Ill && c.bugs.illIsRefused:
		return providers.ErrKeyRefused
	case c.bugs.tellsKey:
		return fmt.Errorf("bad key %s", v.Reveal())
	case c.bugs.tellsAll:
		return fmt.Errorf("%*d", tooLong, 1)
	case c.bugs.tellsControl:
		return errors.New("\x1b[31mred")
	}
	return errors.New("ill")
}

func TestCheckSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs checkBugs) []providertest.Case {
		return providertest.CheckCases(providertest.CheckSetup{Open: func(_ providertest.T, peer providertest.Peer) (providers.Check, providers.CheckInput) {
			return &check{bugs: bugs, peer: peer}, providers.CheckInput{Bundle: secret.Single(secret.New([]byte("the-key-of-this-test")))}
		}})
	}
	planted(t, cases, map[string]checkBugs{
		"it is always well":                           {alwaysWell: true},
		"it does not tell that the key was refused":   {refusedIsPlain: true},
		"it says refused for other trouble":           {illIsRefused: true},
		"it says refused when nobody answers":         {silentIsRefused: true},
		"it does not honour its context":              {deaf: true},
		"it tells the key":                            {tellsKey: true},
		"it repeats whatever the peer says":           {tellsAll: true},
		"it lets control characters through":          {tellsControl: true},
		"it closes the caller's bundle":               {closesKey: true},
		"it works once":                               {onlyOnce: true},
		"it cannot be asked twice at the same moment": {oneAtATime: true},
	})
}

type attestorBugs struct {
	failsAsOne, hidesFailure, namesNobody, answersForAll, onlyFirstKey, inventsGhost, deaf, dropsWhenLate, asksInTurn, noSource, noTime, doubles bool
	most                                                                                                                                         int
}

type attestor struct {
	bugs      attestorBugs
	instances map[string]providertest.Instance
	now       func() time.Time
}

func (a *attestor) Attest(ctx context.Context, asked []string) ([]key.Statement, error) {
	if a.bugs.answersForAll {
		asked = nil
		for name := range a.instances {
			asked = append(asked, name)
		}
	}
	if a.bugs.most > 0 && len(asked) > a.bugs.most {
		asked = asked[:a.bugs.most]
	}
	var statements []key.Statement
	var failed []error
	silent := false
	for _, name := range asked {
		instance, known := a.instances[name]
		s := key.Statement{Instance: name, Source: "test"}
		for _, k := range instance.Keys {
			s.Keys = append(s.Keys, k.Fingerprint())
		}
		switch {
		case a.bugs.noSource:
			s.Source = ""
		case a.bugs.onlyFirstKey && known && len(s.Keys) > 0:
			s.Keys = s.Keys[:1]
		}
		switch {
		case instance.Peer == providertest.Well && known, a.bugs.inventsGhost && !known:
			if observed := a.now(); !a.bugs.noTime {
				s.ObservedAt = observed
			}
			statements = append(statements, s)
			if a.bugs.doubles {
				statements = append(statements, s)
			}
			continue
		case instance.Peer == providertest.Silent && a.bugs.asksInTurn:
			_ = stall(ctx, false)
		case instance.Peer == providertest.Silent:
			silent = true
		}
		if a.bugs.namesNobody {
			name = "somebody"
		}
		failed = append(failed, fmt.Errorf("instance %s says nothing", name))
	}
	if silent {
		if err := stall(ctx, a.bugs.deaf); a.bugs.dropsWhenLate {
			return nil, err
		}
	}
	switch {
	case a.bugs.failsAsOne && len(failed) > 0:
		return nil, errors.Join(failed...)
	case a.bugs.hidesFailure:
		return statements, nil
	}
	return statements, errors.Join(failed...)
}

func TestAttestorSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs attestorBugs) []providertest.Case {
		return providertest.AttestorCases(providertest.AttestorSetup{Open: func(_ providertest.T, instances map[string]providertest.Instance, now func() time.Time) providers.Attestor {
			return &attestor{bugs: bugs, instances: instances, now: now}
		}})
	}
	planted(t, cases, map[string]attestorBugs{
		"one bad instance hides the others":      {failsAsOne: true},
		"a missing statement is no error":        {hidesFailure: true},
		"the error does not say who":             {namesNobody: true},
		"everybody answers":                      {answersForAll: true},
		"the second key of a reload is lost":     {onlyFirstKey: true},
		"an instance that does not exist states": {inventsGhost: true},
		"it does not honour its context":         {deaf: true},
		"a late instance takes all with it":      {dropsWhenLate: true},
		"a late instance keeps others waiting":   {asksInTurn: true},
		"no source":                              {noSource: true},
		"no time":                                {noTime: true},
		"two statements of one instance":         {doubles: true},
		"it asks only the first fifty":           {most: 50},
	})
}

type healthBugs struct {
	caches, noDataIsZero, negativeIsFine, negativeIsNoData, illIsNoData, lateIsNoData, deaf, noTime, wrongWindow bool
}

type health struct {
	bugs     healthBugs
	windowed bool
	now      func() providertest.Source
	before   *key.Sample
}

func (h *health) Sample(ctx context.Context, window time.Duration) (key.Sample, error) {
	source := h.now()
	switch {
	case h.bugs.caches && h.before != nil:
		return *h.before, nil
	case source.Peer == providertest.Silent:
		err := stall(ctx, h.bugs.deaf)
		if h.bugs.lateIsNoData {
			return key.Sample{}, providers.ErrNoData
		}
		return key.Sample{}, err
	case source.Peer != providertest.Well && h.bugs.illIsNoData:
		return key.Sample{}, providers.ErrNoData
	case source.Peer != providertest.Well:
		return key.Sample{}, errors.New("ill")
	case source.NoData && !h.bugs.noDataIsZero:
		return key.Sample{}, providers.ErrNoData
	case math.Min(source.Errors, source.Total) < 0 && h.bugs.negativeIsNoData:
		return key.Sample{}, providers.ErrNoData
	case math.Min(source.Errors, source.Total) < 0 && !h.bugs.negativeIsFine:
		return key.Sample{}, errors.New("negative")
	}
	s := key.Sample{Errors: source.Errors, Total: source.Total, At: time.Now()}
	if h.bugs.noTime {
		s.At = time.Time{}
	}
	if h.windowed != h.bugs.wrongWindow {
		s.Window = window
	}
	h.before = &s
	return s, nil
}

func TestHealthSignalSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	for name, windowed := range map[string]bool{"counters since the start": false, "counters of a window": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cases := func(bugs healthBugs) []providertest.Case {
				return providertest.HealthSignalCases(providertest.HealthSetup{Windowed: windowed, Open: func(_ providertest.T, now func() providertest.Source) providers.HealthSignal {
					return &health{bugs: bugs, windowed: windowed, now: now}
				}})
			}
			planted(t, cases, map[string]healthBugs{
				"it remembers":                      {caches: true},
				"no data is zero":                   {noDataIsZero: true},
				"counters below zero are fine":      {negativeIsFine: true},
				"counters below zero are silence":   {negativeIsNoData: true},
				"trouble is silence":                {illIsNoData: true},
				"a source that is late is silence":  {lateIsNoData: true},
				"it does not honour its context":    {deaf: true},
				"no time":                           {noTime: true},
				"it tells another window than it's": {wrongWindow: true},
			})
		})
	}
}

type notifierBugs struct {
	losesMessage, losesData, losesTime, changesID, splits, hidesFailure, illIsFinal, refusedPasses, throttledIsPlain, deaf, silentIsFinal, tellsAll bool
}

type notifier struct {
	bugs notifierBugs
	peer providertest.Peer
	mu   sync.Mutex
	got  []providers.Notification
}

func (n *notifier) Notify(ctx context.Context, m providers.Notification) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.bugs.losesMessage && len(n.got) > 0 && n.got[0].ID != m.ID, n.peer != providertest.Well && n.bugs.hidesFailure:
		return nil
	case n.peer == providertest.Silent:
		err := stall(ctx, n.bugs.deaf)
		if n.bugs.silentIsFinal {
			return providers.ErrInvalid
		}
		return err
	case n.peer == providertest.Throttling && !n.bugs.throttledIsPlain:
		return providers.ErrThrottled
	case n.peer == providertest.Refusing && !n.bugs.refusedPasses, n.peer == providertest.Ill && n.bugs.illIsFinal:
		return providers.ErrInvalid
	case n.peer == providertest.Telltale && n.bugs.tellsAll:
		return fmt.Errorf("%*d", tooLong, 1)
	case n.peer != providertest.Well:
		return errors.New("ill")
	}
	if n.bugs.losesData {
		m.Data = nil
	}
	if n.bugs.losesTime {
		m.At = time.Time{}
	}
	if n.bugs.changesID && len(n.got) > 0 {
		m.ID += "'"
	}
	n.got = append(n.got, m)
	if n.bugs.splits && m.Body != "" && m.Body[0] == '"' {
		n.got = append(n.got, providers.Notification{ID: "m3"})
	}
	return nil
}

func TestNotifierSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs notifierBugs) []providertest.Case {
		return providertest.NotifierCases(providertest.NotifierSetup{Open: func(_ providertest.T, peer providertest.Peer) (providers.Notifier, func() []providers.Notification) {
			n := &notifier{bugs: bugs, peer: peer}
			return n, func() []providers.Notification { return n.got }
		}})
	}
	planted(t, cases, map[string]notifierBugs{
		"it loses a message":                       {losesMessage: true},
		"it loses the data":                        {losesData: true},
		"it loses the time":                        {losesTime: true},
		"a repetition gets another ID":             {changesID: true},
		"a body can forge a message":               {splits: true},
		"a message that did not arrive is fine":    {hidesFailure: true},
		"trouble that passes is final":             {illIsFinal: true},
		"a refusal is trouble that passes":         {refusedPasses: true},
		"asked too often is not told":              {throttledIsPlain: true},
		"it does not honour its context":           {deaf: true},
		"a silent receiver is final":               {silentIsFinal: true},
		"it repeats whatever the receiver says is": {tellsAll: true},
	})
}

type freezerBugs struct {
	losesFreeze, losesTime, keepsFreeze, endsOthers, missesUnfreeze, hidesFailure, illIsFinal, deaf bool
}

// freezer keeps the freeze that is in force.
type freezer struct {
	bugs freezerBugs
	peer providertest.Peer
	held providers.Freeze
}

func (f *freezer) trouble(ctx context.Context) error {
	switch {
	case f.peer == providertest.Silent && f.bugs.deaf:
		<-time.After(time.Hour)
	case f.peer == providertest.Silent:
		<-ctx.Done()
	case f.peer == providertest.Well, f.bugs.hidesFailure:
		return nil
	case f.bugs.illIsFinal:
		return providers.ErrInvalid
	}
	return errors.New("the receiver is ill")
}

func (f *freezer) Freeze(ctx context.Context, freeze providers.Freeze) error {
	if err := f.trouble(ctx); err != nil {
		return err
	}
	if f.bugs.losesTime && f.held.Incident == freeze.Incident {
		freeze.Until = f.held.Until
	}
	if !f.bugs.losesFreeze {
		f.held = freeze
	}
	return nil
}

func (f *freezer) Unfreeze(ctx context.Context, incident string) error {
	if err := f.trouble(ctx); err != nil {
		return err
	}
	if f.bugs.missesUnfreeze && f.held.Incident == "" {
		return providers.ErrNotFound
	}
	if !f.bugs.keepsFreeze && (f.bugs.endsOthers || f.held.Incident == incident) {
		f.held = providers.Freeze{}
	}
	return nil
}

func TestFreezerSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs freezerBugs) []providertest.Case {
		return providertest.FreezerCases(providertest.FreezerSetup{Open: func(_ providertest.T, peer providertest.Peer) (providers.Freezer, func() providers.Freeze) {
			f := &freezer{bugs: bugs, peer: peer}
			return f, func() providers.Freeze { return f.held }
		}})
	}
	planted(t, cases, map[string]freezerBugs{
		"it loses a freeze":               {losesFreeze: true},
		"it does not renew one":           {losesTime: true},
		"it does not end one":             {keepsFreeze: true},
		"it ends another incident's":      {endsOthers: true},
		"that there is none is an error":  {missesUnfreeze: true},
		"one that was not frozen is fine": {hidesFailure: true},
		"trouble that passes is final":    {illIsFinal: true},
		"it does not honour its context":  {deaf: true},
	})
}

type readerBugs struct {
	readsAll, deaf, tellsAll, tellsControl, tellsSecret, tellsHalf, tellsOthers, tellsBeside, believes bool
}

// reader reads a reply as a provider should, or not.
func (bugs readerBugs) read(ctx context.Context, r providertest.Reply, sent secret.Bundle) (taken int64, told any, err error) {
	const most = 64 << 10
	reading, writing := io.Pipe()
	counted := &taking{to: writing}
	hungUp, hangUp := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Write(hungUp, counted, sent)
		_ = writing.Close()
	}()
	stop := context.AfterFunc(ctx, func() {
		if !bugs.deaf {
			_ = reading.CloseWithError(ctx.Err())
		}
	})
	body, err := io.ReadAll(io.LimitReader(reading, most))
	switch {
	case bugs.deaf && ctx.Err() != nil:
		<-time.After(time.Minute)
	case bugs.readsAll:
		_, _ = io.Copy(io.Discard, reading)
	}
	stop()
	hangUp()
	_ = reading.Close()
	<-done
	text := string(body)
	switch {
	case err != nil:
		return counted.n, nil, err
	case r.Status == 200 && bugs.believes:
		return counted.n, nil, nil
	case r.Status == 200 && bugs.tellsBeside && r.Answers:
		return counted.n, text, nil
	}
	return counted.n, nil, errors.New(bugs.words(text, sent))
}

// words are what an error says of a reply.
func (bugs readerBugs) words(text string, sent secret.Bundle) string {
	value, _ := sent.Field(secret.ValueField)
	switch {
	case bugs.tellsAll:
		return strings.Repeat("x", len(text))
	case bugs.tellsControl:
		return strings.Join(strings.FieldsFunc(text[:min(len(text), 1000)], unicode.IsPrint), "")
	case bugs.tellsHalf:
		text = strings.ReplaceAll(text, string(value.Reveal()), "")
	case bugs.tellsOthers && sent.ShownIn(text):
		text = ""
	case !bugs.tellsSecret && !bugs.tellsOthers:
		return fmt.Sprintf("it answers with %d bytes", len(text))
	}
	return outside.Text(text, outside.MaxText)
}

type taking struct {
	to io.Writer
	n  int64
}

func (c *taking) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}

func TestHostileSuiteFindsBugs(t *testing.T) {
	t.Parallel()
	cases := func(bugs readerBugs) []providertest.Case {
		sent := secret.Single(secret.New([]byte("ktg_Zq81mW0pLx7TRe2uA9sVfB3nKcYh5dJt")))
		return providertest.HostileCases(providertest.HostileSetup{Sent: sent, Content: true, Open: func(_ providertest.T, r providertest.Reply) (func(context.Context) (any, error), func() int64) {
			var most int64
			return func(ctx context.Context) (any, error) {
				taken, told, err := bugs.read(ctx, r, sent)
				most = taken
				return told, err
			}, func() int64 { return most }
		}})
	}
	planted(t, cases, map[string]readerBugs{
		"it reads to the end":                  {readsAll: true},
		"it does not honour its context":       {deaf: true},
		"it repeats whatever the peer says":    {tellsAll: true},
		"it lets control characters through":   {tellsControl: true},
		"it repeats the secret":                {tellsSecret: true},
		"it looks for the secret as a whole":   {tellsHalf: true},
		"it looks for the key that it sent":    {tellsOthers: true},
		"it tells what is beside the answer":   {tellsBeside: true},
		"it takes whatever a good status says": {believes: true},
	})
}

func TestARecorderStopsWhereATestWould(t *testing.T) {
	t.Parallel()
	reached := false
	failed := failures(t, []providertest.Case{{Name: "stops", Run: func(t providertest.T) {
		t.FailNow()
		reached = true
	}}})
	assert.Equal(t, []string{"stops"}, failed)
	assert.False(t, reached)
}
