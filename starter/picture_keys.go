package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/keyturn/keyturn/internal/key"
	"github.com/keyturn/keyturn/workflows"
)

// stroke is how a key's line is drawn while it is in a state.
type stroke struct {
	line string
	ink  ink
}

var strokes = map[workflows.KeyState]stroke{
	workflows.KeyPending:   {"┄", alert},
	workflows.KeyCurrent:   {"━", good},
	workflows.KeyPrevious:  {"─", going},
	workflows.KeyDisabled:  {"╌", alert},
	workflows.KeyDestroyed: {"×", bad},
}

// legend is the order in which strokes are explained.
var legend = []workflows.KeyState{workflows.KeyPending, workflows.KeyCurrent, workflows.KeyPrevious, workflows.KeyDisabled, workflows.KeyDestroyed}

// keys draws the lines of the two keys' lives, below each other on one scale of time, which ends now or when the wait that
// is going on will.
func (d *drawing) keys() section {
	s := d.status
	if len(s.Keys) == 0 {
		return section{slices.Concat(d.wrapped("retiring key", nameOf(s.Retiring), nil, 1), d.wrapped("incoming key", nameOf(s.Incoming), nil, 1))}
	}
	names := map[workflows.KeyRole]string{workflows.RoleRetiring: plain(s.Retiring.KeyID), workflows.RoleIncoming: plain(s.Incoming.KeyID)}
	tail := 0 // what stands behind a line
	for _, name := range names {
		tail = max(tail, ansi.StringWidth(name))
	}
	const state = len("destroyed")
	tail = min(tail, (d.width-d.label)/3)
	wide := max(4, d.width-d.label-tail-state-4)
	begin, now, end := d.started(), d.now, d.now
	if s.Report != nil {
		now, end = s.Report.EndedAt, s.Report.EndedAt
	} else if s.Until.After(now) && s.Gate == nil { // what a gate waits for may come at any time
		end = s.Until
	}
	if first := s.Keys[0].At; first.Before(begin) {
		begin = first
	}
	at := scale(s.Keys, begin, end, wide)
	present := at(now)

	rows := []string{d.row("keys", d.ruler(begin, now, end, present, wide))}
	used := map[workflows.KeyState]bool{}
	for _, role := range []workflows.KeyRole{workflows.RoleRetiring, workflows.RoleIncoming} {
		var is workflows.KeyState
		line, from := "", 0
		to := func(column int) {
			if n := column - from; n > 0 {
				line, from, used[is] = line+d.in(strokes[is].ink, strings.Repeat(cmp.Or(strokes[is].line, " "), n)), column, true
			}
		}
		for _, m := range s.Keys {
			if m.Key == role {
				to(at(m.At))
				is = m.State
			}
		}
		switch ink := strokes[is].ink; is {
		case "":
			continue
		case workflows.KeyDestroyed:
			line += d.in(ink, strokes[is].line) + strings.Repeat(" ", max(0, wide-1-from))
			used[is] = true
		default:
			to(present)
			line += d.in(ink, "▶") + d.in(faint, strings.Repeat("·", max(0, wide-1-present)))
		}
		rows = append(rows, d.row("  "+string(role), line+"  "+d.in(strokes[is].ink, d.pad(plain(string(is)), state+1))+" "+ansi.Truncate(names[role], tail, "…")))
	}
	var explained []string
	for _, st := range legend {
		if used[st] {
			explained = append(explained, d.in(strokes[st].ink, strokes[st].line)+" "+string(st))
		}
	}
	rows = append(rows, d.row("", d.in(faint, strings.Join(explained, "  "))))
	return section{rows}
}

func nameOf(k key.Ref) string {
	if k.IsZero() {
		return ""
	}
	return keyName(k)
}

// scale tells the column of a time. Changes that are close to each other get columns of their own while there are any.
func scale(keys []workflows.KeyMoment, begin, end time.Time, wide int) func(time.Time) int {
	linear := func(t time.Time) int {
		if !end.After(begin) || !t.After(begin) {
			return 0
		}
		return min(int(float64(wide-1)*float64(t.Sub(begin))/float64(end.Sub(begin))), wide-1)
	}
	columns := map[time.Time]int{}
	next := 0
	for _, m := range slices.SortedStableFunc(slices.Values(keys), func(a, b workflows.KeyMoment) int { return a.At.Compare(b.At) }) {
		if _, known := columns[m.At]; !known {
			columns[m.At] = min(max(linear(m.At), next), wide-1)
			next = columns[m.At] + 2
		}
	}
	return func(t time.Time) int {
		if c, known := columns[t]; known {
			return c
		}
		c := linear(t)
		for at, column := range columns { // never before what happened earlier
			if !at.After(t) {
				c = max(c, min(column+1, wide-1))
			}
		}
		return c
	}
}

// ruler has the times of the lines below it.
func (d *drawing) ruler(begin, now, end time.Time, present, wide int) string {
	left, right := d.clock(begin), d.clock(end)
	middle := "now " + d.clock(now)
	if d.status.Report != nil {
		middle = "ended " + d.clock(now)
	}
	middle += "▼"
	line := []rune(strings.Repeat(" ", wide))
	put := func(text string, from int) bool {
		runes := []rune(text)
		if from < 0 || from+len(runes) > len(line) || strings.TrimSpace(string(line[max(0, from-2):min(len(line), from+len(runes)+2)])) != "" {
			return false
		}
		copy(line[from:], runes)
		return true
	}
	// The mark of now stands over it, its time before or behind it.
	if !put(middle, present+1-len([]rune(middle))) {
		put("▼"+strings.TrimSuffix(middle, "▼"), present)
	}
	put(left, 0)
	if end.After(now) {
		put(right, wide-len([]rune(right)))
	}
	return d.in(faint, strings.TrimRight(string(line), " "))
}
