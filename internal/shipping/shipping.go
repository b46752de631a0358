// Package shipping hands the events of this host's audit file over to a collector, the record that several workers share: in their
// order, each at least once. It is beside whatever acts: while nobody takes events, they wait in the file, and nothing else waits.
package shipping

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/internal/audit"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/patience"
	"github.com/keyturn/keyturn/providers"
)

const (
	// lookEvery is how often the file is looked at for what is new.
	lookEvery = time.Second
	// keepEvery is after how many events it is written down how far they got: that many are repeated when the process is killed.
	keepEvery = 64
	// takeWithin bounds how long one event may take.
	takeWithin = time.Minute
	// longestPause is how long a collector that is down is left alone, mostAsked how long one that asks for it.
	longestPause = 5 * time.Minute
	mostAsked    = time.Hour
)

// Shipper ships one audit file.
type Shipper struct {
	// File is the path of the audit file.
	File string
	To   providers.Collector
	Log  *slog.Logger
	Now  func() time.Time
	// Pause waits: patience.Pause, but for tests.
	Pause func(context.Context, time.Duration) error

	trouble atomic.Pointer[string]
	since   time.Time // when the outage began; zero in none
	tries   int       // in vain, since the last event that was taken
}

// New returns the shipper of a file.
func New(file string, to providers.Collector, log *slog.Logger) *Shipper {
	return &Shipper{File: file, To: to, Log: log, Now: time.Now, Pause: patience.Pause}
}

// Trouble is why events wait; empty while none do. Another process that shares the file may be the one that ships them.
func (s *Shipper) Trouble() string {
	if text := s.trouble.Load(); text != nil {
		return *text
	}
	return ""
}

// Run ships until ctx ends.
func (s *Shipper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		file, err := audit.Follow(ctx, s.File, s.Log)
		if err == nil {
			s.follow(ctx, file)
			_ = file.Close() // it was written by Keep
			return
		}
		if ctx.Err() == nil {
			_ = s.Pause(ctx, s.failed(ctx, err, 0))
		}
	}
}

func (s *Shipper) follow(ctx context.Context, file *audit.Follower) {
	for ctx.Err() == nil {
		pause := lookEvery
		if err := s.ship(ctx, file); err != nil {
			pause = s.failed(ctx, err, file.Waiting())
		} else {
			s.over()
		}
		_ = s.Pause(ctx, pause)
	}
}

// ship hands over what is new. How far it got is noted, also when that was not to the end.
func (s *Shipper) ship(ctx context.Context, file *audit.Follower) (err error) {
	defer func() {
		if kept := file.Keep(s.Now()); err == nil {
			err = kept
		}
	}()
	for taken := 1; ; taken++ {
		e, some, err := file.Next(ctx)
		if err != nil || !some {
			return err
		}
		if err := s.hand(ctx, e); err != nil {
			return err
		}
		s.tries = 0
		file.Took(e, s.Now())
		if taken%keepEvery == 0 {
			if err := file.Keep(s.Now()); err != nil {
				return err
			}
		}
	}
}

func (s *Shipper) hand(ctx context.Context, e audit.Numbered) error {
	ctx, cancel := context.WithTimeout(ctx, takeWithin)
	defer cancel()
	return s.To.Collect(ctx, e)
}

// failed notes that events wait, and tells for how long to pause. The log has it once.
func (s *Shipper) failed(ctx context.Context, err error, waiting int64) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	s.tries++
	why := outside.Line(err.Error(), outside.MaxText)
	if s.since.IsZero() {
		s.since = s.Now()
		s.Log.Error("audit events are not shipped: they wait in the file, and nothing else waits for them; it is tried again by itself", "file", s.File, "bytes", waiting, "error", why)
	}
	text := fmt.Sprintf("since %s audit events wait in the file, %d bytes now: %s", s.since.UTC().Format(time.RFC3339), waiting, why)
	s.trouble.Store(&text)
	return pause(s.tries, providers.After(err))
}

// over notes that nothing waits any more.
func (s *Shipper) over() {
	if s.since.IsZero() {
		return
	}
	s.Log.Info("audit events are shipped again: none waits any more", "file", s.File, "after", s.Now().Sub(s.since).Round(time.Second).String())
	s.since = time.Time{}
	s.trouble.Store(nil)
}

// pause is how long to wait after so many tries in vain: ever longer, and for as long as the collector asks.
func pause(tries int, asked time.Duration) time.Duration {
	own := longestPause
	if doublings := tries - 1; doublings < 9 {
		own = min(longestPause, time.Second<<doublings)
	}
	return max(own, min(asked, mostAsked))
}
