package output

import (
	"io"
	"strings"
)

// Page writes headings, labelled values and paragraphs within Width. The first error of the writer is kept and
// returned by Err; what follows it is dropped.
type Page struct {
	w   io.Writer
	err error
}

// NewPage returns a page that writes to w.
func NewPage(w io.Writer) *Page { return &Page{w: w} }

// Err returns the first error of the writer.
func (p *Page) Err() error { return p.err }

// Line writes one line, cut to Width.
func (p *Page) Line(indent int, s string) {
	s = strings.TrimRight(Printable(s), " ")
	p.put(strings.Repeat(" ", indent) + Truncate(s, Width-indent))
}

// Heading writes an empty line and a heading.
func (p *Page) Heading(s string) {
	p.put("")
	p.Line(0, s)
}

// Item writes lead at indent, and beside it text that starts at column at and is wrapped there. A lead that does not fit
// before that column gets its own line.
func (p *Page) Item(indent int, lead string, at int, text string) {
	lead = Printable(lead)
	lines := Wrap(text, Width-at)
	head := strings.Repeat(" ", indent) + lead
	switch {
	case Columns(head) > at:
		p.put(strings.TrimRight(Truncate(head, Width), " "))
	case len(lines) > 0:
		p.put(strings.TrimRight(head+strings.Repeat(" ", at-Columns(head))+lines[0], " "))
		lines = lines[1:]
	}
	for _, line := range lines {
		if line != "" {
			p.put(strings.Repeat(" ", at) + line)
		}
	}
}

// Table writes t.
func (p *Page) Table(t *Table) {
	if p.err == nil {
		p.err = t.Write(p.w)
	}
}

func (p *Page) put(line string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, line+"\n")
	}
}
