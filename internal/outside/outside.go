// Package outside makes text that comes from the outside world fit for logs, errors, terminals and the
// audit record: bounded, on one line, with nothing in it that a terminal obeys.
package outside

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxText bounds, in bytes, what an error may repeat of the outside world.
const MaxText = 1024

const ellipsis = "…"

// Hidden tells whether a reader would not see a character, or see others elsewhere for it: what is no printed one (controls, line
// separators, directions and joiners), and what is printed as nothing (fillers, variation selectors, the blank of braille).
func Hidden(r rune) bool {
	const blankOfBraille = '\u2800'
	return !strconv.IsPrint(r) || r == blankOfBraille || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Text returns s with every control, invisible or invalid character written out as Go would ("\n",
// "\x1b", "\u202e"), cut to limit bytes at a character, "…" included. Text of a Text is the same. A
// limit below the length of "…" gives an empty string.
func Text(s string, limit int) string { return written(s, limit, "") }

// Lines is Text for what may have several lines, as joined errors do: their ends stay.
func Lines(s string, limit int) string { return written(s, limit, "\n") }

// Line is Text for what may have several lines where one is wanted: "; " stands between them.
func Line(s string, limit int) string {
	return Text(strings.ReplaceAll(strings.Trim(s, "\n"), "\n", "; "), limit)
}

// Cut is s cut to limit bytes at a character, with nothing in the place of what is gone. It bounds a name that must stay one.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}

func written(s string, limit int, kept string) string {
	var b strings.Builder
	fits := 0 // how much of b leaves room for the ellipsis
	for rest := s; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		shown := rest[:size]
		if !strings.ContainsRune(kept, r) && Hidden(r) || r == utf8.RuneError && size == 1 {
			quoted := strconv.QuoteToASCII(shown)
			shown = quoted[1 : len(quoted)-1]
		}
		if b.Len()+len(shown) > limit {
			if limit < len(ellipsis) {
				return ""
			}
			return b.String()[:fits] + ellipsis
		}
		b.WriteString(shown)
		if b.Len()+len(ellipsis) <= limit {
			fits = b.Len()
		}
		rest = rest[size:]
	}
	return b.String()
}
