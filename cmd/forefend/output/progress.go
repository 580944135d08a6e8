package output

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Progress says on a terminal what is being waited for, and wipes that away. On anything else it is silent.
type Progress struct {
	w     io.Writer
	shown int
}

// NewProgress returns a Progress on w, silent unless w is a terminal.
func NewProgress(w io.Writer) *Progress {
	if !terminal(w) {
		w = nil
	}
	return &Progress{w: w}
}

// Step replaces what is shown.
func (p *Progress) Step(s string) {
	if p.w == nil {
		return
	}
	p.Done()
	s = Truncate(Printable(s), Width-2) + " …"
	p.shown = Columns(s)
	io.WriteString(p.w, "\r"+s)
}

// Done wipes what is shown.
func (p *Progress) Done() {
	if p.w == nil || p.shown == 0 {
		return
	}
	io.WriteString(p.w, "\r"+strings.Repeat(" ", p.shown)+"\r")
	p.shown = 0
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
