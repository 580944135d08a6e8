package channel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// wire is a stream whose incoming bytes are given and whose outgoing ones are kept.
type wire struct {
	in  io.Reader
	out bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error)      { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error)     { return w.out.Write(p) }
func (*wire) Close() error                      { return nil }
func (*wire) SetReadDeadline(time.Time) error   { return nil }
func (*wire) SetWriteDeadline(time.Time) error  { return nil }
func key(b byte) (k [KeySize]byte)              { k[0] = b; return k }
func host(s Stream, opt ...func(*Config)) *Conn { return end(s, Host, opt) }
func agent(s Stream) *Conn                      { return end(s, Agent, nil) }
func end(s Stream, e End, opt []func(*Config)) *Conn {
	cfg := Config{Key: key(7), End: e, Stall: 200 * time.Millisecond}
	for _, o := range opt {
		o(&cfg)
	}
	return New(s, cfg)
}

// records are what an agent writes for these payloads.
func records(t testing.TB, payloads ...string) [][]byte {
	t.Helper()
	w := &wire{}
	a := agent(w)
	var out [][]byte
	for _, p := range payloads {
		if _, err := a.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Clone(w.out.Bytes()))
		w.out.Reset()
	}
	return out
}

func read(data []byte, opt ...func(*Config)) (string, error) {
	got, err := io.ReadAll(host(&wire{in: bytes.NewReader(data)}, opt...))
	return string(got), err
}

func TestRecords(t *testing.T) {
	r := records(t, "one", "", "two", string(bytes.Repeat([]byte{'x'}, 3*MaxPayload+5)))
	want := "onetwo" + string(bytes.Repeat([]byte{'x'}, 3*MaxPayload+5))
	if got, err := read(bytes.Join(r, nil)); err != nil || got != want {
		t.Errorf("got %d bytes, want %d: %v", len(got), len(want), err)
	}
}

// TestFaults alters what an agent wrote in each way there is.
func TestFaults(t *testing.T) {
	r := records(t, "one", "two", "three")
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	with := func(b []byte, f func([]byte)) []byte {
		b = bytes.Clone(b)
		f(b)
		return b
	}
	other := func() []byte {
		w := &wire{}
		_, _ = New(w, Config{Key: key(8), End: Agent}).Write([]byte("one"))
		return w.out.Bytes()
	}()
	reflected := func() []byte {
		w := &wire{}
		_, _ = host(w).Write([]byte("one"))
		return w.out.Bytes()
	}()
	for name, test := range map[string]struct {
		data []byte
		want Kind
		read string
	}{
		"replay":            {join(r[0], r[1], r[0]), Replayed, "onetwo"},
		"again":             {join(r[0], r[0]), Replayed, "one"},
		"reordered":         {join(r[1], r[0]), Gap, ""},
		"lost":              {join(r[0], r[2]), Gap, "one"},
		"cut in header":     {join(r[0], r[1][:5]), Truncated, "one"},
		"cut in payload":    {join(r[0], r[1][:headerSize+1]), Truncated, "one"},
		"cut in MAC":        {r[0][:len(r[0])-1], Truncated, ""},
		"payload altered":   {flip(r[0], headerSize), Tampered, ""},
		"sequence altered":  {flip(r[0], 11), Tampered, ""},
		"MAC altered":       {flip(r[0], len(r[0])-1), Tampered, ""},
		"version":           {flip(r[0], 0), WrongVersion, ""},
		"reserved":          {flip(r[0], 1), WrongVersion, ""},
		"length":            {with(r[0], func(b []byte) { binary.BigEndian.PutUint16(b[2:], MaxPayload+1) }), Oversized, ""},
		"shorter":           {with(r[0], func(b []byte) { b[3]-- }), Tampered, ""},
		"another key":       {other, Tampered, ""},
		"reflected":         {reflected, Tampered, ""},
		"garbage":           {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), WrongVersion, ""},
		"garbage, long":     {bytes.Repeat([]byte{1, 0, 0, 0}, 1000), Tampered, ""},
		"garbage afterward": {join(r[0], []byte("garbage garbage garbage")), WrongVersion, "one"},
	} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int32
			got, err := read(test.data, func(c *Config) { c.OnFault = func(*Fault) { told.Add(1) } })
			var fault *Fault
			if !errors.As(err, &fault) || fault.Kind != test.want || got != test.read || told.Load() != 1 {
				t.Errorf("read %q, told %d times: %v", got, told.Load(), err)
			}
		})
	}
}

// TestFaultStays: after a fault nothing is read any more, however good.
func TestFaultStays(t *testing.T) {
	r := records(t, "one", "two")
	c := host(&wire{in: bytes.NewReader(bytes.Join([][]byte{r[0], r[0], r[1]}, nil))})
	_, err := io.ReadAll(c)
	if _, again := c.Read(make([]byte, 1)); again == nil || !errors.Is(again, err) {
		t.Errorf("first %v, then %v", err, again)
	}
}

func TestFlood(t *testing.T) {
	w := &wire{}
	a := agent(w)
	for range 100 {
		_, _ = a.Write(make([]byte, 1000))
	}
	many := w.out.Bytes()
	limited := func(c *Config) { c.Rate, c.Burst = 1000, 50_000 }
	_, err := read(many, limited)
	var fault *Fault
	if !errors.As(err, &fault) || fault.Kind != Flood {
		t.Error(err)
	}
	if _, err := read(many[:40_000-40_000%(headerSize+1000+macSize)], limited); err != nil {
		t.Errorf("within the burst: %v", err)
	}
}

// pair is a connected socketpair.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// TestStall begins a record and does not go on.
func TestStall(t *testing.T) {
	a, b := pair(t)
	if _, err := b.Write(records(t, "one")[0][:20]); err != nil {
		t.Fatal(err)
	}
	_, err := host(a).Read(make([]byte, 10))
	var fault *Fault
	if !errors.As(err, &fault) || fault.Kind != Stalled {
		t.Error(err)
	}
}

// TestDeaf writes to a peer that reads nothing, as a stopped agent.
func TestDeaf(t *testing.T) {
	a, _ := pair(t)
	c := host(a)
	var err error
	for began := time.Now(); err == nil && time.Since(began) < time.Minute; {
		_, err = c.Write(make([]byte, MaxPayload))
	}
	var fault *Fault
	if !errors.As(err, &fault) || fault.Kind != Stalled {
		t.Error(err)
	}
	if _, again := c.Write([]byte("x")); again == nil || errors.Is(again, os.ErrDeadlineExceeded) {
		t.Errorf("a channel with half a record out goes on: %v", again)
	}
}
