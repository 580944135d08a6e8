package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http1"
)

// exchange is the memory of a request and its response.
type exchange struct {
	req, resp http1.Head
	chunks    http1.Chunks // of the request's body
	context   flow.Context
	decision  *flow.Decision
	epoch     uint64 // of the engine, when it was decided
	charge    charge

	method string     // as it was written
	body   http1.Body // of the request
	sent   int        // bytes of the request that are in the client's buffer
	left   int64      // bytes of a sized body that are not
	whole  bool       // none are
	reset  bool       // the server's connection ended by an error
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// serveHTTP serves requests until the connection ends.
func (s *session) serveHTTP() {
	for {
		if err := s.awaitRequest(); err != nil {
			s.noRequest(err)
			return
		}
		x := exchanges.Get().(*exchange)
		more := s.serveRequest(x)
		exchanges.Put(x)
		if !more {
			return
		}
	}
}

// awaitRequest waits for the beginning of a request.
func (s *session) awaitRequest() error {
	if !s.client.buf.empty() {
		return nil
	}
	if cap(s.memo.scratch) > 1<<10 { // an idle connection is small
		s.memo.scratch = nil
	}
	s.mu.Lock()
	s.phase = idle
	var last *upstream
	if n := len(s.ups); n > 0 {
		last = s.ups[n-1]
	}
	s.mu.Unlock()
	if last != nil {
		last.flow.rest()
		s.watchServer(last)
		s.watchClient()
		if last.hung.Load() {
			return io.EOF
		}
	}
	err := s.client.fill()
	s.enter(busy)
	if last != nil && last.hung.Load() {
		if err != nil {
			return io.EOF
		}
		s.client.resume() // the request came just before it was interrupted
	}
	return err
}

// noRequest ends a connection whose next request did not come.
func (s *session) noRequest(err error) {
	if !errors.Is(err, io.EOF) {
		s.abort()
	}
}

// readHead reads until a whole head is in the buffer, within the limit of time from its first byte where there is one.
func readHead(from *side, within time.Duration) (size int, err error) {
	timed := false
	defer func() {
		if timed {
			from.resume()
		}
	}()
	for resume := 0; ; {
		b := from.buf.bytes()
		if size, resume = http1.End(b, resume); size > http1.MaxHead || size == 0 && len(b) >= http1.MaxHead {
			return 0, &http1.Fault{Kind: http1.TooLarge}
		}
		if size > 0 {
			return size, nil
		}
		if len(b) > 0 && within > 0 && !timed {
			_ = from.tcp.SetReadDeadline(time.Now().Add(within))
			timed = true
		}
		if err := from.fill(); err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
}

// serveRequest serves one request, whose first bytes are there. more tells that another one may follow.
func (s *session) serveRequest(x *exchange) (more bool) {
	if bytes.HasPrefix(s.client.buf.bytes(), []byte("\r\n")) { // some clients end a body with one
		s.client.buf.consume(2)
	}
	settings := s.settings()
	if err := s.readRequest(x, settings); err != nil {
		return s.badRequest(err)
	}
	s.e.count.requests.Add(1)
	x.charge = nil // of the exchange before it
	c := &x.context
	o := settings.originate(c.Host)
	if o != nil {
		c.Destination = o.to(c.Destination)
	}
	return s.serveDecided(x, o)
}

// serveDecided decides a request and does what was decided.
func (s *session) serveDecided(x *exchange, o *Origination) (more bool) {
	x.epoch = s.e.epoch.Load()
	var err error
	if x.decision, err = s.decide(&x.context); err != nil {
		x.charge.back()
		return s.refuse(x, 503, "no decision: "+err.Error())
	}
	if d := x.decision; d.Profile.Deny {
		x.charge.back()
		return s.refuse(x, 403, "denied"+because(d))
	}
	if !x.charge.take(s.limitsOf(x.decision, x.context.User).ofRequests(), s.gone) {
		return false
	}
	return s.exchange(x, o)
}

// because names the rules of a decision.
func because(d *flow.Decision) string {
	var names []string
	for _, m := range d.Matches {
		names = append(names, m.Rule)
	}
	text := ""
	if len(names) > 0 {
		text = " by rule " + strings.Join(names, ", ")
	}
	if d.Reason != "" {
		text += ": " + d.Reason
	}
	return text
}

// readRequest reads a request's head and what came with it of its body.
func (s *session) readRequest(x *exchange, settings *Settings) error {
	for {
		size, err := readHead(&s.client, s.e.limits.Load().Head)
		if err != nil {
			return err
		}
		if err := x.req.ParseRequest(s.client.buf.bytes()[:size]); err != nil {
			return err
		}
		if !x.req.Upgrade || !s.withoutH2C(&x.req) {
			break
		}
	}
	var err error
	if x.context, err = settings.ofRequest(&x.req, s.to, &s.memo); err != nil {
		return err
	}
	x.method, x.body, x.left, x.whole, x.chunks = written(x.req.Method, x.context.Method), x.req.RequestBody(), 0, true, http1.Chunks{}
	rest := s.client.buf.bytes()[x.req.Size:]
	n := 0
	switch x.body {
	case http1.Sized:
		n = int(min(int64(len(rest)), x.req.Length))
		x.left = x.req.Length - int64(n)
		x.whole = x.left == 0
	case http1.Chunked:
		if n, x.whole, err = x.chunks.Feed(rest); err != nil {
			return err
		}
	}
	x.sent = x.req.Size + n
	return nil
}

// withoutH2C takes an offer of HTTP/2 out of the head. A server may always ignore one (RFC 9110, 7.8).
func (s *session) withoutH2C(h *http1.Head) bool {
	b := s.client.buf.bytes()
	for _, f := range h.Fields() {
		if !http1.Is(f.Name, "upgrade") || !bytes.Contains(bytes.ToLower(f.Value), []byte("h2c")) {
			continue
		}
		from := cap(b) - cap(f.Name) // both reach to the end of the same array
		to := from + bytes.IndexByte(b[from:], '\n') + 1
		copy(b[from:], b[to:])
		s.client.buf.w -= to - from
		return true
	}
	return false
}

// slow is the kind of heads that take too long.
const slow http1.Kind = "slow"

// badRequest answers a request that cannot be served.
func (s *session) badRequest(err error) bool {
	var f *http1.Fault
	switch {
	case errors.As(err, &f):
		s.e.count.fault(f.Kind)
		s.answer(400, f.Error(), false, "")
	case isTimeout(err):
		s.e.count.fault(slow)
		s.answer(408, "the head of the request took too long", false, "")
	case errors.Is(err, io.ErrUnexpectedEOF): // the client gave up; it listens perhaps
		return false
	default:
		s.abort()
		return false
	}
	s.linger()
	return false
}

// refuse answers a request that will not be sent on.
func (s *session) refuse(x *exchange, status int, why string) (more bool) {
	more = x.whole && x.req.Persistent()
	s.client.buf.consume(min(x.sent, len(s.client.buf.bytes())))
	if s.answer(status, why, more, x.method) != nil {
		s.abort()
		return false
	}
	if !more {
		s.linger()
	}
	return more
}

// reasons are the phrases of the statuses we answer with.
var reasons = map[int]string{
	400: "Bad Request", 403: "Forbidden", 408: "Request Timeout", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}

// answer sends a response of our own.
func (s *session) answer(status int, why string, keep bool, method string) error {
	text := "forefend: " + why + "\n"
	connection := "close"
	if keep {
		connection = "keep-alive"
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nServer: forefend\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n",
		status, reasons[status], len(text), connection)
	if method == "HEAD" {
		text = ""
	}
	return s.client.write([]byte(head + text))
}

// What a client may still send after an answer that ends the connection, until it has read it: closing at once would reset
// the connection and take the answer from it.
const (
	lingerTime = 2 * time.Second
	lingerMost = 1 << 20
)

func (s *session) linger() {
	s.client.closeWrite()
	_ = s.client.tcp.SetReadDeadline(time.Now().Add(lingerTime))
	for n := 0; n < lingerMost; {
		s.client.buf.drop()
		if s.client.fill() != nil {
			return
		}
		n += len(s.client.buf.bytes())
	}
}
