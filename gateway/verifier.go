package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/internal/gatewayfile"
	"github.com/keyturn/keyturn/internal/secret"
)

const (
	// flushEvery is how often uses are reported: well within the time that keyturn counts on.
	flushEvery = gatewayfile.UsageLag / 4
	// restsFor is how old a report gets before the next one, which has nothing new.
	restsFor = gatewayfile.UsageLag / 2
	// flushWithin bounds the wait for the lock of the usage file.
	flushWithin = 5 * time.Second
)

// Grant is what a key that is accepted may do.
type Grant struct {
	Principal string
	KeyID     string
	Scopes    []string
}

// Verifier checks the keys of requests against the key file. Any number of goroutines may use it, and any
// number of gateways may share the two files.
type Verifier struct {
	keyFile, usageFile string
	now                func() time.Time
	stop, done         chan struct{}
	once               sync.Once

	keys   atomic.Pointer[snapshot]
	reload sync.Mutex

	mu    sync.Mutex // guards the following
	uses  map[string]gatewayfile.Use
	dirty bool
	asOf  time.Time // of the last report
	lost  error
}

// snapshot is the key file as it was read, a malformed one too. The file stays open, so that no later one can get its inode:
// as long as the path leads to this inode, this is its content. Without a file it could not be read, and is read again.
type snapshot struct {
	file *os.File
	info os.FileInfo
	keys gatewayfile.Index
	err  error
}

// OpenVerifier reads the key file and begins to report uses in the usage file; "" for the key file's path with .usage after
// it. It fails for a key file that is missing (see Create), malformed, or that others may write. Close it to report the last
// uses.
func OpenVerifier(keyFile, usageFile string) (*Verifier, error) {
	if usageFile == "" {
		usageFile = gatewayfile.UsageFileOf(keyFile)
	}
	v := &Verifier{
		keyFile: keyFile, usageFile: usageFile, now: time.Now,
		uses: map[string]gatewayfile.Use{}, stop: make(chan struct{}), done: make(chan struct{}),
	}
	if s := v.current(); s.err != nil {
		s.close()
		return nil, fmt.Errorf("opening verifier: %w", s.err)
	}
	if err := v.flush(); err != nil {
		v.keys.Load().close()
		return nil, fmt.Errorf("opening verifier: %w", err)
	}
	go v.report()
	return v, nil
}

// Verify tells whether a key is accepted now, and what it may do. A key that was destroyed or disabled
// before the call is refused, one that was issued before it accepted. While the key file cannot be read
// or trusted, every key is refused: see Err.
func (v *Verifier) Verify(value string) (Grant, bool) { return v.VerifyFrom(value, "") }

// VerifyFrom is Verify for a request whose sender is known, by address or name. keyturn shows it to those
// who ask who still uses a retiring key. What has not the form of either, or shows a part of the key, is not kept.
func (v *Verifier) VerifyFrom(value, from string) (Grant, bool) {
	s := v.current()
	if s.err != nil {
		return Grant{}, false
	}
	r := s.keys.Find([]byte(value))
	if r == nil {
		return Grant{}, false
	}
	v.used(r.ID, v.shownSender(r.ID, value, from))
	if !r.Accepted(v.now()) {
		return Grant{}, false
	}
	return Grant{Principal: r.Principal, KeyID: r.ID, Scopes: slices.Clone(r.Scopes)}, true
}

// Err tells what keeps the verifier from its work: a key file that cannot be trusted, or uses that cannot
// be reported. nil while all is well. It belongs into the gateway's health check.
func (v *Verifier) Err() error {
	keys := v.current().err
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(keys, v.lost)
}

// Close reports the last uses and stops. Keys are verified after it, too, but no use is reported.
func (v *Verifier) Close() error {
	v.once.Do(func() { close(v.stop) })
	<-v.done
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lost
}

// current returns the key file's content as it is now.
func (v *Verifier) current() *snapshot {
	info, err := os.Stat(v.keyFile)
	if s := v.keys.Load(); err == nil && s.is(info) {
		return s
	}
	v.reload.Lock()
	defer v.reload.Unlock()
	before := v.keys.Load()
	if info, err = os.Stat(v.keyFile); err == nil && before.is(info) {
		return before // another request was faster
	}
	s := load(v.keyFile)
	v.keys.Store(s)
	before.close()
	return s
}

// is tells whether s is what the file has that info describes.
func (s *snapshot) is(info os.FileInfo) bool {
	return s != nil && s.file != nil && os.SameFile(s.info, info) && s.info.ModTime().Equal(info.ModTime()) && s.info.Size() == info.Size()
}

func (s *snapshot) close() {
	if s != nil && s.file != nil {
		_ = s.file.Close()
	}
}

func load(path string) *snapshot {
	file, err := gatewayfile.Open(path)
	if err != nil {
		return &snapshot{err: fmt.Errorf("reading key file %q: %w", path, err)}
	}
	info, err := file.Stat()
	var f *gatewayfile.KeyFile
	if err == nil {
		f, err = gatewayfile.DecodeKeys(file)
	}
	if err == nil {
		return &snapshot{file: file, info: info, keys: f.Index()}
	}
	s := &snapshot{file: file, info: info, err: fmt.Errorf("reading key file %q: %w", path, err)}
	if !errors.Is(err, ErrMalformed) { // another try may read it
		s.close()
		s.file = nil
	}
	return s
}

// shownSender is what is kept of the sender of a key.
func (v *Verifier) shownSender(keyID, value, from string) string {
	v.mu.Lock()
	last := v.uses[keyID].From
	v.mu.Unlock()
	from = gatewayfile.Sender(from)
	if from == "" || from == last { // as nearly always: it was looked at before
		return from
	}
	sent := secret.Single(secret.New([]byte(gatewayfile.SecretPart(value))))
	defer sent.Close()
	if sent.ShownIn(from) {
		return gatewayfile.NotNamed
	}
	return from
}

func (v *Verifier) used(keyID, from string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.uses[keyID] = gatewayfile.Use{At: v.clock(), From: from}
	v.dirty = true
}

// clock is the time for the report: none comes before the last report, whoever made it, by a clock that was ahead. So a use
// is never older than a report that does not have it. v.mu is held.
func (v *Verifier) clock() time.Time {
	if now := v.now().UTC(); now.After(v.asOf) {
		return now
	}
	return v.asOf
}

// report reports uses until Close.
func (v *Verifier) report() {
	defer close(v.done)
	ticks := time.NewTicker(flushEvery)
	defer ticks.Stop()
	for stopping := false; !stopping; {
		select {
		case <-v.stop:
			stopping = true
		case <-ticks.C:
		}
		err := v.flush()
		v.mu.Lock()
		v.lost = err
		v.mu.Unlock()
	}
}

// flush reports the uses, if there are any since the last time, or that there are none.
func (v *Verifier) flush() error {
	v.mu.Lock()
	uses := maps.Clone(v.uses)
	dirty, now := v.dirty, v.clock()
	rests := now.Sub(v.asOf) < restsFor
	v.dirty = false
	v.mu.Unlock()

	if !dirty && rests {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
	defer cancel()
	usage, err := gatewayfile.Report(ctx, v.usageFile, uses, v.live(), now)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.dirty = true // to be tried again
		return err
	}
	v.asOf = usage.AsOf
	for id, u := range usage.LastUsed {
		if u.At.After(v.uses[id].At) {
			v.uses[id] = u
		}
	}
	for id := range v.uses {
		if _, lives := usage.LastUsed[id]; !lives && !v.dirty {
			delete(v.uses, id)
		}
	}
	return nil
}

// live tells which keys there are. While the key file cannot be read, none is forgotten.
func (v *Verifier) live() func(keyID string) bool {
	s := v.current()
	if s.err != nil {
		return func(string) bool { return true }
	}
	ids := s.keys.IDs()
	return func(id string) bool { return ids[id] }
}
