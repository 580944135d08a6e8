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
		ended := make(chan bool, 2)
		e.settle(func() { ended <- true })
		if closes {
			within(t, ended, "the writer has closed, and nobody noticed")
		}
		e.settle(func() { t.Error("started twice") })
		e.close()
		if len(ended) > 0 {
			t.Error("an input ended that nobody closed")
		}
		writer.Close()
		reader.Close()
	}
}

// Upstream opens the FIFO for reading in a goroutine of its own: an end told before would leave it waiting for ever.
func TestStdinEndsOnceItIsRead(t *testing.T) {
	fifo := makeFIFO(t)
	e := watched(t, fifo)
	writer := open(t, fifo, os.O_WRONLY)
	if _, err := writer.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	ended := make(chan bool, 2)
	e.settle(func() { ended <- true })
	<-time.After(10 * readCheck)
	if len(ended) > 0 {
		t.Error("the end was told before anybody read")
	}
	reader := open(t, fifo, os.O_RDONLY|unix.O_NONBLOCK)
	within(t, ended, "somebody reads, and the end is not told")
	buf := make([]byte, 10)
	if n, err := reader.Read(buf); err != nil || string(buf[:n]) != "abc" {
		t.Errorf("read %q, %v: what was written before is lost", buf[:n], err)
	}
}

// A client may say that its input ended before the process has been started, where upstream has nothing to close.
func TestStdinEndTooEarlyForUpstream(t *testing.T) {
	fifo := makeFIFO(t)
	e := watched(t, fifo)
	e.orphan = false
	if !e.tell() {
		t.Error("upstream is bothered with it before the start")
	}
	open(t, fifo, os.O_RDONLY|unix.O_NONBLOCK)
	ended := make(chan bool, 2)
	e.settle(func() { ended <- true })
	within(t, ended, "the client has said so, but the input did not end")
	if e.tell() {
		t.Error("once upstream reads, it is upstream's")
	}
	var none *stdinEnd
	if none.tell() {
		t.Error("nobody watches, yet it is not passed on")
	}
}

func within(t *testing.T, c <-chan bool, failure string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Error(failure)
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
	for deadline := time.Now().Add(time.Minute); !waiting(); {
		if time.Now().After(deadline) {
			t.Fatal("no writer in a minute")
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
	open(t, fifo, os.O_RDONLY|unix.O_NONBLOCK)
	e.settle(func() { ended <- true })
	within(t, ended, "nobody can write, but the input did not end")
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
