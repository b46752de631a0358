package inventory

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/outside"
)

// Duration is a time span as people write it: "90d", "12h", "1d12h", "0s". A day is 24 hours. Every
// number needs its unit.
type Duration time.Duration

const day = 24 * time.Hour

// maxTerm is the longest that anybody can write, so that sums of durations and of the present time do not overflow.
const maxTerm = 3650 * Duration(day)

var (
	durationForm = regexp.MustCompile(`^(?:(\d+)d)?((?:\d+(?:\.\d+)?(?:h|ms|m|s))*)$`)
	// ErrDuration is wrapped by every error of ParseDuration.
	ErrDuration = errors.New("not a duration")
)

// ParseDuration reads the form above. The error says what to write.
func ParseDuration(s string) (Duration, error) {
	parts := durationForm.FindStringSubmatch(s)
	if s == "" || parts == nil {
		return 0, fmt.Errorf("%w: %q; write numbers with units, such as 90d, 12h or 1d12h30m", ErrDuration, clip(s))
	}
	var total time.Duration
	if parts[1] != "" {
		days, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || days > int64(maxTerm.Std()/day) {
			return 0, tooLong(s)
		}
		total = time.Duration(days) * day
	}
	if parts[2] != "" {
		rest, err := time.ParseDuration(parts[2])
		if err != nil || rest > maxTerm.Std()-total {
			return 0, tooLong(s)
		}
		total += rest
	}
	return Duration(total), nil
}

func tooLong(s string) error {
	return fmt.Errorf("%w: %q is longer than %s; write a shorter one", ErrDuration, clip(s), maxTerm)
}

// Std is d as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the shortest form that ParseDuration reads back.
func (d Duration) String() string {
	if d == 0 {
		return "0s"
	}
	rest := time.Duration(d)
	var b strings.Builder
	if days := rest / day; days != 0 {
		fmt.Fprintf(&b, "%dd", days)
		rest -= days * day
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}} {
		if n := rest / u.unit; n != 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			rest -= n * u.unit
		}
	}
	if rest != 0 {
		b.WriteString(rest.String())
	}
	return b.String()
}

// MarshalText writes String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	*d = parsed
	return err
}

// clip bounds what is repeated of a file.
func clip(s string) string { return outside.Text(s, 40) }
