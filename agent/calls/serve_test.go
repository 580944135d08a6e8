package calls

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// served is a client of containerd's library with our server at its other end, and the server's end.
func served(t *testing.T, methods map[string]Method) (*ttrpc.Client, <-chan error) {
	t.Helper()
	a, b := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(context.Background(), b, "s", methods); _ = b.Close() }()
	c := ttrpc.NewClient(a)
	t.Cleanup(func() { _ = c.Close() })
	return c, ended
}

func call(c *ttrpc.Client, ctx context.Context, service, method, body string) (string, error) {
	var out wrapperspb.BytesValue
	err := c.Call(ctx, service, method, wrapperspb.Bytes([]byte(body)), &out)
	if err != nil {
		err = errgrpc.ToNative(err)
	}
	return string(out.Value), err
}

// TestServe calls the server with the library it has to be understood by.
func TestServe(t *testing.T) {
	release := make(chan struct{})
	c, ended := served(t, map[string]Method{
		"echo": func(_ context.Context, body []byte) ([]byte, error) { return body, nil },
		"fail": func(context.Context, []byte) ([]byte, error) { return nil, Errorf(FailedPrecondition, "not %s", "now") },
		"odd":  func(context.Context, []byte) ([]byte, error) { return nil, errors.New("odd") },
		"huge": func(context.Context, []byte) ([]byte, error) { return make([]byte, MaxMessage), nil },
		"deadline": func(ctx context.Context, _ []byte) ([]byte, error) {
			d, ok := ctx.Deadline()
			if !ok || time.Until(d) > time.Minute {
				return nil, errors.New("no deadline")
			}
			return []byte("ok"), nil
		},
		"wait": func(ctx context.Context, _ []byte) ([]byte, error) {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, nil
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, body := range []string{"", "x", strings.Repeat("long", 100_000)} {
		if got, err := call(c, ctx, "s", "echo", body); err != nil || got != body {
			t.Errorf("echo of %d bytes: %d, %v", len(body), len(got), err)
		}
	}
	if _, err := call(c, ctx, "s", "fail", ""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not now") {
		t.Error(err)
	}
	if _, err := call(c, ctx, "s", "odd", ""); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Error(err)
	}
	if _, err := call(c, ctx, "s", "huge", ""); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	if _, err := call(c, ctx, "s", "none", ""); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	if _, err := call(c, ctx, "other", "echo", ""); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	if got, err := call(c, ctx, "s", "deadline", ""); err != nil || got != "ok" {
		t.Error(got, err)
	}
	// More calls than run at once: those beyond are refused, and none is lost.
	var waiting sync.WaitGroup
	refused := make(chan bool, maxCalls+4)
	for range maxCalls + 4 {
		waiting.Go(func() {
			_, err := call(c, ctx, "s", "wait", "")
			refused <- errdefs.IsResourceExhausted(err)
		})
	}
	for range 4 {
		if !<-refused {
			t.Error("a call beyond the bound was answered otherwise than by a refusal")
		}
	}
	close(release)
	waiting.Wait()
	_ = c.Close()
	if err := <-ended; !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// stream is what a peer sends, and what it is answered.
type stream struct {
	io.Reader
	out bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) { return s.out.Write(p) }

// message makes a request with any header and body.
func message(id uint32, kind byte, length uint32, body []byte) []byte {
	head := []byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id), kind, 0}
	return append(head, body...)
}

// TestServeRefuses ends the connection on what no client sends.
func TestServeRefuses(t *testing.T) {
	good := appendBytes(appendBytes(nil, 1, []byte("s")), 2, []byte("echo"))
	for name, data := range map[string][]byte{
		"a response":           message(1, typeResponse, uint32(len(good)), good),
		"too long":             message(1, typeRequest, MaxMessage+1, nil),
		"cut short":            message(1, typeRequest, 100, good),
		"no protobuf":          message(1, typeRequest, 3, []byte{0xff, 0xff, 0xff}),
		"a length beyond":      message(1, typeRequest, 2, []byte{0x0a, 0x7f}),
		"field zero":           message(1, typeRequest, 2, []byte{0x00, 0x00}),
		"a group":              message(1, typeRequest, 1, []byte{0x0b}),
		"an even stream":       message(2, typeRequest, uint32(len(good)), good),
		"a stream a 2nd time":  append(message(1, typeRequest, uint32(len(good)), good), message(1, typeRequest, uint32(len(good)), good)...),
		"fixed32 without body": message(1, typeRequest, 1, []byte{0x0d}),
	} {
		err := Serve(t.Context(), &stream{Reader: bytes.NewReader(data)}, "s", map[string]Method{
			"echo": func(_ context.Context, body []byte) ([]byte, error) { return body, nil },
		})
		if err == nil || errors.Is(err, io.EOF) && name != "cut short" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzServe feeds anything: whatever comes, Serve ends, and makes no more of it than came.
func FuzzServe(f *testing.F) {
	good := appendBytes(appendBytes(appendBytes(nil, 1, []byte("s")), 2, []byte("echo")), 3, appendBytes(nil, 1, []byte("hello")))
	f.Add(message(1, typeRequest, uint32(len(good)), good))
	f.Add(message(1, typeRequest, MaxMessage, good))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &stream{Reader: bytes.NewReader(data)}
		err := Serve(t.Context(), s, "s", map[string]Method{
			"echo": func(_ context.Context, body []byte) ([]byte, error) { return body, nil },
		})
		if err == nil {
			t.Error("it ended without a reason")
		}
		if s.out.Len() > 100*len(data)+1000 {
			t.Errorf("%d bytes of answers to %d", s.out.Len(), len(data))
		}
	})
}
