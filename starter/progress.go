package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// progress is a line that counts up, on a terminal; elsewhere it is silent.
type progress struct {
	out         io.Writer
	what        string
	done, total int
}

func (t *terminal) progress(what string, total int) *progress {
	p := &progress{what: what, total: total}
	if f, ok := t.err.(*os.File); ok && !t.quiet && total > writers && term.IsTerminal(int(f.Fd())) {
		p.out = f
	}
	return p
}

const barWidth = 30

func (p *progress) add() {
	p.done++
	if p.out != nil {
		full := barWidth * p.done / p.total
		fmt.Fprintf(p.out, "\r[%s%s] %d of %d %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), p.done, p.total, p.what)
	}
}

func (p *progress) end() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
