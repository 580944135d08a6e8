package output

import (
	"io"
	"strings"
)

// Column is one column of a Table.
type Column struct {
	Name  string
	Note  string // a second header line, in small: what the parts of a cell are
	Right bool   // numbers
	Min   int    // the column may be cut down to this many columns; 0: never cut
}

// Table collects rows and prints them aligned, within Width. When they do not fit, the widest column that may be cut
// is cut first.
type Table struct {
	columns []Column
	rows    [][]string
}

// gap is the space between two columns.
const gap = "  "

// NewTable returns an empty table.
func NewTable(columns ...Column) *Table { return &Table{columns: columns} }

// Row adds a row; missing cells are empty, empty cells print as "-".
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.columns))
	for i := range row {
		row[i] = "-"
		if i < len(cells) && cells[i] != "" {
			row[i] = Printable(cells[i])
		}
	}
	t.rows = append(t.rows, row)
}

// Write prints the header and the rows.
func (t *Table) Write(w io.Writer) error {
	rows := t.header()
	rows = append(rows, t.rows...)
	widths := t.fit(rows)
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString(gap)
			}
			cell = Truncate(cell, widths[i])
			pad := strings.Repeat(" ", widths[i]-Columns(cell))
			if t.columns[i].Right {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Table) header() [][]string {
	names, notes, noted := make([]string, len(t.columns)), make([]string, len(t.columns)), false
	for i, c := range t.columns {
		names[i], notes[i] = c.Name, c.Note
		noted = noted || c.Note != ""
	}
	if noted {
		return [][]string{names, notes}
	}
	return [][]string{names}
}

// fit returns the width of each column so that a line fits Width.
func (t *Table) fit(rows [][]string) []int {
	widths := make([]int, len(t.columns))
	total := len(gap) * (len(t.columns) - 1)
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], Columns(row[i]))
		}
		total += widths[i]
	}
	for total > Width {
		widest := -1
		for i, c := range t.columns {
			if c.Min > 0 && widths[i] > c.Min && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 { // nothing may be cut any more: cut the last column that can give
			widest = t.widest(widths)
		}
		widths[widest]--
		total--
	}
	return widths
}

func (t *Table) widest(widths []int) int {
	at := 0
	for i, w := range widths {
		if w > widths[at] {
			at = i
		}
	}
	return at
}
