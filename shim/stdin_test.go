package shim

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStdinEnd(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "stdin")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := watchStdin("", false); e != nil || err != nil || e.reached() {
		t.Error("no standard input, yet it is watched")
	}
	if e, err := watchStdin(fifo, true); e != nil || err != nil {
		t.Error("a terminal's standard input is watched")
	}
	if _, err := watchStdin(fifo+"none", false); err == nil {
		t.Error("a FIFO that is not there is watched")
	}
	for _, closes := range []bool{false, true} {
		e, err := watchStdin(fifo, false)
		if err != nil {
			t.Fatal(err)
		}
		reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		writer, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if closes {
			writer.Close()
		}
		if got := e.reached(); got != closes {
			t.Errorf("the writer has closed: %v, noticed: %v", closes, got)
		}
		if e.reached() {
			t.Error("a watch that ended says the end was reached")
		}
		writer.Close()
		reader.Close()
	}
}
