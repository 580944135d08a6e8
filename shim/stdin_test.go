package shim

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func makeFIFO(t *testing.T) string {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "stdin")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	return fifo
}

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func watched(t *testing.T, fifo string) *stdinEnd {
	t.Helper()
	e, err := watchStdin(fifo, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

func TestStdinEnd(t *testing.T) {
	fifo := makeFIFO(t)
	if e, err := watchStdin("", false); e != nil || err != nil {
		t.Error("no standard input, yet it is watched")
	}
	if e, err := watchStdin(fifo, true); e != nil || err != nil {
		t.Error("a terminal's standard input is watched")
	}
	if _, err := watchStdin(fifo+"none", false); err == nil {
		t.Error("a FIFO that is not there is watched")
	}
	var none *stdinEnd
	none.settle(func() { t.Error("nothing ended") })
	none.close()
	for _, closes := range []bool{false, true} {
		e := watched(t, fifo)
		reader := open(t, fifo, os.O_RDONLY|unix.O_NONBLOCK)
		writer := open(t, fifo, os.O_WRONLY)
		if closes {
			writer.Close()
		}
		e.orphan = false
		ended := false
		e.settle(func() { ended = true })
		if ended != closes {
			t.Errorf("the writer has closed: %v, noticed: %v", closes, ended)
		}
		if e.reached() {
			t.Error("a watch that ended says the end was reached")
		}
		writer.Close()
		reader.Close()
	}
}

// A client that waits in open(2) for a reader is not gone, and what it writes
// before upstream reads is not lost.
func TestStdinOfWaitingClient(t *testing.T) {
	fifo := makeFIFO(t)
	opened := make(chan *os.File)
	go func() {
		f, _ := os.OpenFile(fifo, os.O_WRONLY, 0)
		opened <- f
	}()
	// Only once it waits in the kernel does it count as a writer.
	waiting := func() bool {
		r := open(t, fifo, os.O_RDONLY|unix.O_NONBLOCK)
		defer r.Close()
		yes, err := hasWriter(int(r.Fd()))
		return yes && err == nil
	}
	for deadline := time.Now().Add(10 * time.Second); !waiting(); {
		if time.Now().After(deadline) {
			t.Fatal("no writer in ten seconds")
		}
	}
	writer := <-opened
	defer writer.Close()
	e := watched(t, fifo)
	if e.orphan {
		t.Error("a writer is there, and the FIFO an orphan")
	}
	if _, err := writer.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	reader := open(t, fifo, os.O_RDONLY|unix.O_NONBLOCK)
	e.settle(func() { t.Error("the writer is still there") })
	buf := make([]byte, 10)
	if n, err := reader.Read(buf); err != nil || string(buf[:n]) != "abc" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

// A client with an empty input is gone before anybody watched.
func TestStdinNobodyWrites(t *testing.T) {
	fifo := makeFIFO(t)
	ended := make(chan bool, 1)
	e := watched(t, fifo)
	e.settle(func() { ended <- true })
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("nobody can write, but the input did not end")
	}
	// Closed in time, nothing happens any more.
	e = watched(t, fifo)
	e.settle(func() { t.Error("the process was deleted") })
	e.close()
	<-time.After(2 * lateCheck)
}

func TestHeld(t *testing.T) {
	fifo := makeFIFO(t)
	if heldElsewhere(fifo) {
		t.Error("held, but nobody has it")
	}
	mine := open(t, fifo, unix.O_PATH)
	if heldElsewhere(fifo) {
		t.Error("this process's own descriptor counts")
	}
	other, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{Files: []*os.File{mine}})
	if err != nil {
		t.Fatal(err)
	}
	if !heldElsewhere(fifo) {
		t.Error("another process has it, but it is not held")
	}
	_ = other.Kill()
	_, _ = other.Wait()
}
