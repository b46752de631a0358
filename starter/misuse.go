package main

import (
	"fmt"
	"io"
	"time"

	"github.com/keyturn/keyturn/workflows"
)

// exposedSince reads since when somebody else may have had a key: a time, or how long ago. Zero for nothing.
func exposedSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if ago, is := time.ParseDuration(text); err != nil && is == nil {
		at, err = now.Add(-ago), nil
	}
	if err != nil || !at.Before(now) {
		return time.Time{}, usage("--since %q: write a time that has passed, such as 2026-03-01T12:00:00Z, or how long ago, such as 72h", text)
	}
	return at.UTC(), nil
}

// printMisuse shows who used the exposed keys, once that was asked.
func printMisuse(w io.Writer, s workflows.IncidentStatus) {
	lines := s.MisuseLines()
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, "Who used the exposed keys, unusual uses first:")
	for _, line := range lines {
		fmt.Fprintf(w, "  %s\n", plain(line))
	}
}
