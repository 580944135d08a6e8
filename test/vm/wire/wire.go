// Package wire is what the runner on the host and the first process of the guest say to each other over one virtio
// serial port: frames of a kind, a length and a body. Everything is in order, so that what a command wrote last is
// there before its exit status is.
//
// The two ends are the same binary, so the format has no versions.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Kind says what a frame is.
type Kind byte

// The frames, in the order in which a run meets them.
const (
	Hello   Kind = 'h' // guest: its kernel is up, send the request
	Run     Kind = 'r' // host: a Request
	Started Kind = 's' // guest: the first step runs; a boot that hangs never says so
	Alive   Kind = 'a' // guest: now and then, while it lives
	Out     Kind = 'o' // guest: standard output of a step
	Err     Kind = 'e' // guest: standard error of a step
	Exit    Kind = 'x' // guest: a Result, the last frame
	Failed  Kind = 'f' // guest: why it cannot run the request at all, the last frame
)

// Request is what a guest is to do.
type Request struct {
	Steps   []Step
	Env     []string
	Modules string // directory of the kernel's modules, as the host names it
	Scratch bool   // there is a disk for temporary files

	// Root, if not empty, is a directory of the host that is to be the guest's root instead of the host's own, with
	// systemd in it as the guest's init. Of the host's files only Visible is there, at its path, and cannot be written.
	Root    string
	Visible string
}

// Step is one command. All steps run, one after the other.
type Step struct {
	Name string // if not empty, its end is told like that of a package of go test
	Dir  string
	Args []string
}

// Result is the exit status of the first step that did not succeed, 0 when all did. A signal counts as a shell counts
// it: 128 and its number.
type Result struct{ Status int }

// maxBody bounds a frame: a guest gone mad must not fill the host's memory.
const maxBody = 1 << 20

const headSize = 5

// Conn frames one stream. Write may be called from several goroutines, Read from one at a time.
type Conn struct {
	mu sync.Mutex // held for one frame's bytes
	rw io.ReadWriter
}

// New returns a Conn over rw.
func New(rw io.ReadWriter) *Conn { return &Conn{rw: rw} }

// Write sends one frame.
func (c *Conn) Write(kind Kind, body []byte) error {
	if len(body) > maxBody {
		return fmt.Errorf("frame %q of %d bytes: at most %d fit", kind, len(body), maxBody)
	}
	frame := make([]byte, headSize, headSize+len(body))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.rw.Write(append(frame, body...))
	return err
}

// WriteJSON sends one frame whose body is v.
func (c *Conn) WriteJSON(kind Kind, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(kind, body)
}

// Read returns the next frame. The error is io.EOF when the stream ended between two frames.
func (c *Conn) Read() (Kind, []byte, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		return 0, nil, err
	}
	kind, n := Kind(head[0]), binary.BigEndian.Uint32(head[1:])
	if n > maxBody {
		return 0, nil, fmt.Errorf("frame %q announces %d bytes: at most %d are allowed", kind, n, maxBody)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.rw, body); err != nil {
		return 0, nil, fmt.Errorf("frame %q is cut short: %w", kind, noEOF(err))
	}
	return kind, body, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Stream returns a writer that sends what is written to it as frames of one kind.
func (c *Conn) Stream(kind Kind) io.Writer { return stream{c, kind} }

type stream struct {
	c    *Conn
	kind Kind
}

func (s stream) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxBody)
		if err := s.c.Write(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}
