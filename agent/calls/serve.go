package calls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Error is an error with gRPC's code for it, by which the client's errdefs knows its kind.
type Error struct {
	Code    uint32
	Message string
}

func (e *Error) Error() string { return e.Message }

// gRPC's codes, as far as they are used.
const (
	Unknown            = 2
	InvalidArgument    = 3
	NotFound           = 5
	ResourceExhausted  = 8
	FailedPrecondition = 9
	Unimplemented      = 12
)

// Errorf makes an Error.
func Errorf(code uint32, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// maxCalls is how many calls run at once: the client makes a few, two that wait, and answers to what the agent asks (api.MaxAsks).
const maxCalls = 16 + 64

// Method answers one call. An error that is no *Error is of the code Unknown.
type Method func(ctx context.Context, body []byte) ([]byte, error)

// Serve answers calls of one service on conn until conn ends, and returns why it did once all calls under way have
// ended; io.EOF is the orderly end. A message that is no call ends the connection: the client is a shim and makes none.
func Serve(ctx context.Context, conn io.ReadWriter, service string, methods map[string]Method) error {
	ctx, cancel := context.WithCancel(ctx)
	s := server{conn: conn, slots: make(chan struct{}, maxCalls)}
	defer s.calls.Wait()
	defer cancel()
	var last uint32
	for {
		stream, body, err := receive(conn)
		if err != nil {
			return err
		}
		if stream <= last || stream%2 == 0 { // as ttrpc asks of a client
			return fmt.Errorf("ttrpc: stream %d after %d", stream, last)
		}
		last = stream
		r, err := parseRequest(body)
		if err != nil {
			return fmt.Errorf("ttrpc: request: %w", err)
		}
		method := methods[r.method]
		if r.service != service || method == nil {
			s.answer(stream, nil, Errorf(Unimplemented, "%.60s/%.60s is not served here", r.service, r.method))
			continue
		}
		select {
		case s.slots <- struct{}{}:
			s.calls.Go(func() { s.call(ctx, stream, r, method) })
		default:
			s.answer(stream, nil, Errorf(ResourceExhausted, "%d calls are under way", maxCalls))
		}
	}
}

type server struct {
	conn  io.ReadWriter
	slots chan struct{}
	calls sync.WaitGroup
	mu    sync.Mutex // held while a response is written
}

func (s *server) call(ctx context.Context, stream uint32, r request, method Method) {
	defer func() { <-s.slots }()
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.timeout))
		defer cancel()
	}
	body, err := method(ctx, r.body)
	if err == nil && len(body) > MaxMessage-64 {
		err = Errorf(ResourceExhausted, "the answer has %d bytes, a message holds just under %d", len(body), MaxMessage)
	}
	s.answer(stream, body, err)
}

// answer writes one response. When that fails the connection is at its end, which the reader sees.
func (s *server) answer(stream uint32, body []byte, err error) {
	var failure *Error
	if err != nil && !errors.As(err, &failure) {
		failure = &Error{Code: Unknown, Message: err.Error()}
	}
	message := response(stream, body, failure)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.conn.Write(message)
}

// receive reads one message, which has to be a request.
func receive(conn io.Reader) (stream uint32, body []byte, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[:])
	if header[8] != typeRequest || length > MaxMessage {
		return 0, nil, fmt.Errorf("ttrpc: a message of type %d with %d bytes", header[8], length)
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(conn, body); err != nil {
		return 0, nil, fmt.Errorf("ttrpc: %w", err)
	}
	return binary.BigEndian.Uint32(header[4:]), body, nil
}
