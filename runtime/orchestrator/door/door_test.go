package door

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// serving is a ttrpc server behind a Door whose calls echo, wait or answer at length.
type serving struct {
	*Door
	socket string
	came   atomic.Int64 // connections
	under  atomic.Int64 // calls of Wait under way
	let    chan struct{}
}

// Handshake implements ttrpc.Handshaker.
func (s *serving) Handshake(ctx context.Context, c net.Conn) (net.Conn, any, error) {
	s.came.Add(1)
	return s.Door.Handshake(ctx, c)
}

func serve(t testing.TB, change func(*Limits)) *serving {
	t.Helper()
	l := Limits{
		Conns: 64, CallsOfOne: 8, Message: 4 << 20, Waiting: 8 << 20, MessageTime: time.Minute, AnswerTime: time.Minute, // a busy machine takes its time
		Calls: Class{Turns: 64}, Large: Class{Turns: 1}, LargeFrom: 64 << 10,
		Classes: map[string]Class{"Long": {"long", 2}, "Wait": {"wait", 64}},
	}
	if change != nil {
		change(&l)
	}
	dir, err := os.MkdirTemp("", "ffdoor")
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{Door: New(ttrpc.UnixSocketRequireSameUser(), l), socket: filepath.Join(dir, "s"), let: make(chan struct{})}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(s))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(f func(context.Context, []byte) []byte) ttrpc.Method {
		return func(ctx context.Context, unmarshal func(any) error) (any, error) {
			var in wrapperspb.BytesValue
			if err := unmarshal(&in); err != nil {
				return nil, err
			}
			return wrapperspb.Bytes(f(ctx, in.Value)), nil
		}
	}
	server.RegisterService("test", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Echo": answer(func(_ context.Context, b []byte) []byte { return b }),
		"Long": answer(func(context.Context, []byte) []byte { return make([]byte, 3<<20) }),
		"Wait": answer(func(ctx context.Context, b []byte) []byte {
			s.under.Add(1)
			defer s.under.Add(-1)
			select {
			case <-s.let:
			case <-ctx.Done():
			}
			return b
		}),
	}})
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), listener) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
		_ = os.RemoveAll(dir)
	})
	return s
}

func (s *serving) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *serving) client(t testing.TB) *ttrpc.Client {
	t.Helper()
	c := ttrpc.NewClient(s.dial(t))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func call(ctx context.Context, c *ttrpc.Client, method string, body []byte) ([]byte, error) {
	var out wrapperspb.BytesValue
	err := c.Call(ctx, "test", method, wrapperspb.Bytes(body), &out)
	return out.Value, err
}

// within calls Echo and fails the test when the answer is wrong or late.
func within(t testing.TB, c *ttrpc.Client, most time.Duration, body []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	if out, err := call(ctx, c, "Echo", body); err != nil || !bytes.Equal(out, body) {
		t.Errorf("%d bytes came back as %d: %v", len(body), len(out), err)
	}
}

// TestStalls: who leaves an answer lying loses what others wait for, but not at the first look, before which this process may not have run.
func TestStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		d := New(ttrpc.UnixSocketRequireSameUser(), Limits{Conns: 1, AnswerTime: time.Hour})
		c := d.admit(near)
		written := make(chan error)
		answer := func() { _, err := c.Write(header(0, 1, 2)); written <- err }
		for range 2 { // a pause after which the peer takes its answer
			go answer()
			time.Sleep(10 * stalled)
			d.refuseStalled()
			if _, err := io.ReadFull(far, make([]byte, headerSize)); err != nil {
				t.Fatal(err)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		}
		go answer()
		time.Sleep(10 * stalled)
		d.refuseStalled()
		time.Sleep(stalled)
		d.refuseStalled()
		if got := d.Counts(); got.Slow != 0 {
			t.Errorf("%+v before it had its time", got)
		}
		time.Sleep(time.Millisecond)
		d.refuseStalled()
		if err := <-written; err == nil || d.Counts().Slow != 1 {
			t.Errorf("%v, %+v", err, d.Counts())
		}
	})
}

// request is a message as a client sends it.
func request(t testing.TB, stream uint32, method string, body []byte) []byte {
	t.Helper()
	value, err := proto.Marshal(wrapperspb.Bytes(body))
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&ttrpc.Request{Service: "test", Method: method, Payload: value})
	if err != nil {
		t.Fatal(err)
	}
	return append(header(uint32(len(b)), stream, typeRequest), b...)
}

func header(length, stream uint32, kind byte) []byte {
	h := binary.BigEndian.AppendUint32(nil, length)
	return append(binary.BigEndian.AppendUint32(h, stream), kind, 0)
}

func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline, tick := time.Now().Add(30*time.Second), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for ; !happened(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// hungUp reports whether the server has closed a connection.
func hungUp(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF) || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (s *serving) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func TestServes(t *testing.T) {
	s := serve(t, nil)
	c := s.client(t)
	for _, size := range []int{0, 1, 4000, 4096, 5000, 100_000, 4<<20 - 1000} {
		within(t, c, 30*time.Second, bytes.Repeat([]byte("x"), size))
	}
	if n := s.Counts(); n != (Counts{}) {
		t.Errorf("%+v", n)
	}
}

// Who does not finish a message is cut off; until then its message costs no more than what came of it.
func TestHalfMessages(t *testing.T) {
	s := serve(t, func(l *Limits) { l.MessageTime = 500 * time.Millisecond })
	c := s.client(t)
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var slow []net.Conn
	for range 50 {
		conn := s.dial(t)
		if _, err := conn.Write(append(header(4<<20, 1, typeRequest), 1)); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, conn)
	}
	eventually(t, "the arrival of the half messages", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.waiting >= 50*(headerSize+1) || s.counts.Slow > 0 // where 50 take longer than one may, the first are gone before the last comes
	})
	runtime.ReadMemStats(&during)
	if grown := int64(during.TotalAlloc) - int64(before.TotalAlloc); grown > 50*(firstRead+64<<10) {
		t.Errorf("50 half messages made the server allocate %d bytes", grown)
	}
	within(t, c, 30*time.Second, []byte("meanwhile"))
	for _, conn := range slow {
		eventually(t, "the end of a slow connection", func() bool { return hungUp(conn) })
	}
	if n := s.Counts(); n.Slow != 50 {
		t.Errorf("%+v", n)
	}
	within(t, c, 30*time.Second, []byte("afterwards")) // idle for longer than a message may take
}

// All half messages together are bounded; whoever has most goes first.
func TestWaitingBytes(t *testing.T) {
	s := serve(t, nil)
	small := s.dial(t)
	if _, err := small.Write(append(header(1000, 1, typeRequest), 1)); err != nil {
		t.Fatal(err)
	}
	for range 4 { // 3 MiB each, of 8
		conn := s.dial(t)
		_, _ = conn.Write(append(header(4<<20, 1, typeRequest), make([]byte, 3<<20)...)) // may be cut off
	}
	eventually(t, "the end of a large half message", func() bool { return s.Counts().Slow >= 1 })
	s.mu.Lock()
	waiting := s.waiting
	s.mu.Unlock()
	if waiting > 8<<20 {
		t.Errorf("%d bytes wait", waiting)
	}
	if hungUp(small) {
		t.Error("the small one had to go")
	}
}

func TestNonsense(t *testing.T) {
	s := serve(t, nil)
	c := s.client(t)
	for what, b := range map[string][]byte{
		"a giant length":         header(0xffffffff, 1, typeRequest),
		"one byte too many":      header(4<<20+1, 1, typeRequest),
		"an even stream":         header(1, 2, typeRequest),
		"a response":             header(1, 1, 2),
		"data without a stream":  header(1, 1, 3),
		"a stream used again":    append(request(t, 3, "Echo", nil), request(t, 3, "Echo", nil)...),
		"a stream that descends": append(request(t, 3, "Echo", nil), request(t, 1, "Echo", nil)...),
		"a request of HTTP":      []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
	} {
		before := s.Counts().Invalid
		conn := s.dial(t)
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of "+what, func() bool { return s.Counts().Invalid == before+1 })
	}
	within(t, c, 30*time.Second, []byte("afterwards"))
	eventually(t, "the end of all others", func() bool { return s.connections() == 1 })
}

// One connection too many costs the one that was idle for longest, never one that waits for an answer.
func TestTooManyConnections(t *testing.T) {
	s := serve(t, nil)
	busy := s.client(t)
	answered := make(chan error, 1)
	go func() {
		_, err := call(t.Context(), busy, "Wait", []byte("x"))
		answered <- err
	}()
	eventually(t, "a call", func() bool { return s.under.Load() == 1 })
	for range 500 {
		s.dial(t)
	}
	eventually(t, "the last connection", func() bool { return s.Counts().Idle >= 500+1-64 })
	eventually(t, "no more than 64 connections", func() bool { return s.connections() <= 64 }) // one is counted as ended before it is gone
	close(s.let)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	within(t, s.client(t), 30*time.Second, []byte("a newcomer"))
}

// Calls beyond a connection's share wait in its socket.
func TestCallsOfOne(t *testing.T) {
	s := serve(t, nil)
	c := s.client(t)
	const calls = 20
	answered := make(chan error, calls)
	for range calls {
		go func() {
			_, err := call(t.Context(), c, "Wait", nil)
			answered <- err
		}()
	}
	eventually(t, "8 calls", func() bool { return s.under.Load() == 8 })
	within(t, s.client(t), 30*time.Second, []byte("another's"))
	if n := s.under.Load(); n != 8 {
		t.Errorf("%d calls under way", n)
	}
	close(s.let)
	for range calls {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

// Who does not read its answers loses them as soon as others wait for a turn.
func TestUnreadAnswers(t *testing.T) {
	s := serve(t, nil)
	for range 4 { // two turns
		conn := s.dial(t)
		for i := range uint32(4) {
			_, _ = conn.Write(request(t, 2*i+1, "Long", nil)) // may be cut off
		}
	}
	eventually(t, "that all turns are taken", func() bool { return len(s.classes["Long"]) == 2 || s.Counts().Slow > 0 }) // or have been
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := call(ctx, s.client(t), "Long", nil); err != nil || len(out) != 3<<20 {
		t.Errorf("%d bytes: %v", len(out), err)
	}
	if n := s.Counts(); n.Slow == 0 {
		t.Errorf("%+v", n)
	}
	within(t, s.client(t), 30*time.Second, []byte("others"))
}

// A thousand connections of every kind later there are as many goroutines and descriptors as before.
func TestLeavesNothing(t *testing.T) {
	s := serve(t, nil)
	within(t, s.client(t), 30*time.Second, nil)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	fds, routines := descriptors(), runtime.NumGoroutine()
	for i := range 1000 {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 4 {
		case 0:
			_, _ = conn.Write(header(100, 1, typeRequest))
		case 1:
			_, _ = conn.Write(request(t, 1, "Echo", nil))
		case 2:
			_, _ = conn.Write(request(t, 1, "Wait", nil))
		}
		_ = conn.Close()
	}
	defer func() {
		if t.Failed() {
			t.Logf("descriptors %d, then %d; goroutines %d, then %d; %d connections", fds, descriptors(), routines, runtime.NumGoroutine(), s.connections())
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		}
	}()
	eventually(t, "the end of all that", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return descriptors() <= fds && runtime.NumGoroutine() <= routines && len(s.conns) <= 1 &&
			s.waiting == 0 && len(s.calls)+len(s.large)+len(s.classes["Wait"]) == 0
	})
}

// FuzzServe lets a peer send anything, in pieces: it gets answers or is cut off, holds nothing afterwards, and another
// peer is served all the same.
func FuzzServe(f *testing.F) {
	f.Add(request(f, 1, "Echo", []byte("hello")), uint16(3))
	f.Add(append(request(f, 1, "Echo", nil), request(f, 3, "Long", nil)...), uint16(40))
	f.Add(append(request(f, 1, "Nothing", nil), header(1<<30, 3, typeRequest)...), uint16(1))
	f.Add(header(10, 1, 3), uint16(0))
	s := serve(f, nil)
	close(s.let)
	other := s.client(f)
	f.Fuzz(func(t *testing.T, sent []byte, cut uint16) {
		before := s.came.Load()
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		at := min(int(cut), len(sent))
		for _, part := range [][]byte{sent[:at], sent[at:]} {
			_, _ = conn.Write(part) // may be cut off
		}
		within(t, other, 30*time.Second, sent[:at])
		if t.Failed() {
			t.Fatalf("refused: %+v", s.Counts())
		}
		_ = conn.Close()
		eventually(t, "the end of the connection, and of all it held", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			// Those that were closed before the server saw them would come all at once, and be too many.
			return s.came.Load() > before && len(s.conns) == 1 && s.waiting == 0 && len(s.calls)+len(s.large)+len(s.classes["Long"]) == 0
		})
	})
}
