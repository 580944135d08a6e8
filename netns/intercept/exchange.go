package intercept

import (
	"context"
	"errors"
	"io"
	"time"

	"forefend.dev/forefend/netns/intercept/http1"
)

// outcome is how an attempt to have a request answered ended.
type outcome int

const (
	complete   outcome = iota // the response is over
	unanswered                // the connection ended before anything of a response came
	truncated                 // the server ended it in the middle
	broken                    // the server reset it, or spoke no HTTP
	cut                       // the client is gone, or we ended it
	switched                  // another protocol begins
	badUpload                 // the request's body is malformed
	badAnswer                 // the response is, and nothing of it was passed on
)

// exchange sends a request on and its response back. more tells that the connection can carry another request.
func (s *session) exchange(x *exchange, o *Origination) (more bool) {
	key := route(&x.context, x.decision)
	if o != nil {
		key.tls = x.context.Host
	}
	for fresh := false; ; fresh = true {
		up, err := s.upstream(x, key, o, fresh)
		if err != nil {
			if errors.Is(err, errGone) {
				return false
			}
			status := 502
			if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				status = 504
			}
			return s.refuse(x, status, "no connection to the server: "+err.Error())
		}
		if s.e.epoch.Load() != x.epoch { // the rules changed while it waited
			x.context.Risk = s.settings().Base.Risk
			return s.serveDecided(x, o)
		}
		reused := up.used
		up.used, x.reset = true, false
		up.flow.limits.Store(s.limits)
		up.flow.serve(&x.context, x.decision, false)
		out := s.attempt(x, up)
		s.enter(busy)
		if out == unanswered && reused && !fresh && x.whole && repeatable(x.method) {
			s.drop(up, false)
			s.e.count.replayed.Add(1)
			continue
		}
		return s.conclude(x, up, out)
	}
}

// conclude does what follows an attempt.
func (s *session) conclude(x *exchange, up *upstream, out outcome) (more bool) {
	if x.whole {
		s.client.buf.consume(x.sent)
	}
	switch out {
	case complete:
		if x.whole && x.req.Persistent() && x.resp.Persistent() && x.resp.ResponseBody(x.method) != http1.ToEnd && up.buf.empty() {
			return true
		}
		if !x.whole || !s.client.buf.empty() { // what it sent in vain must not reset what it reads
			s.linger()
		}
	case switched:
		up.flow.serve(&x.context, x.decision, true)
		if s.e.epoch.Load() != x.epoch { // whoever decided flows again saw a request
			s.e.redecide(&up.flow)
		}
		s.relay(up)
	case badUpload:
		s.e.count.fault(http1.BadChunk)
		s.drop(up, true)
		s.answer(400, "malformed HTTP message: chunk", false, "")
		s.linger()
	case badAnswer:
		s.drop(up, true)
		s.answer(502, "the server's answer is no single HTTP response", false, x.method)
		s.linger()
	case broken, cut:
		s.abort()
	case unanswered, truncated: // the client sees the end as the server made it
		if x.reset {
			s.abort()
		}
	}
	return false
}

// repeatable tells methods whose requests may be sent twice (RFC 9110, 9.2.2).
func repeatable(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND", "SEARCH", "REPORT":
		return true
	}
	return false
}

// upstream is a connection to the server the way the decision demands: one that is there, or with fresh, and where new ones are led
// elsewhere by now, a new one.
func (s *session) upstream(x *exchange, key routeKey, o *Origination, fresh bool) (*upstream, error) {
	s.mu.Lock()
	all := s.ups // only this goroutine changes it, and drop makes a new one
	s.mu.Unlock()
	for _, up := range all {
		switch {
		case up.hung.Load():
			s.drop(up, false)
		case up.route == key && !fresh:
			if !s.keeps(x, up) || up.hung.Load() {
				s.drop(up, false)
				continue
			}
			s.mu.Lock()
			for i, u := range s.ups { // it is the last used now
				if u == up {
					copy(s.ups[i:], s.ups[i+1:])
					s.ups[len(s.ups)-1] = up
				}
			}
			s.mu.Unlock()
			return up, nil
		}
	}
	if all = s.upstreams(); len(all) >= maxUpstreams {
		s.drop(all[0], false)
	}
	return s.open(&x.context, x.decision, key, o)
}

// attempt sends the request to the server and passes its response on.
func (s *session) attempt(x *exchange, up *upstream) outcome {
	b := s.client.buf.bytes()
	s.mu.Lock()
	s.alone = len(b) == x.sent
	s.mu.Unlock()
	if err := (direction{s, &up.flow, true}).write(&up.side, b[:x.sent]); err != nil {
		x.reset = true
		return s.failed(err, unanswered)
	}
	if x.whole {
		s.enter(waiting)
		return s.respond(x, up)
	}
	s.client.buf.consume(x.sent)
	s.watchServer(up)
	s.watchClient()
	upload := make(chan error, 1)
	go func() { upload <- s.upload(x, up) }()
	out := s.respond(x, up)
	s.enter(uploading)
	if out != complete && out != switched || up.hung.Load() { // another protocol begins after the body
		s.client.interrupt()
	}
	err := <-upload
	s.enter(busy) // before resume: the server's end would interrupt the client once more
	s.client.resume()
	switch {
	case err == nil:
		x.whole, x.sent = true, 0
	case out == switched:
		return cut
	case errors.As(err, new(*http1.Fault)):
		if out == complete {
			return cut
		}
		if out == unanswered || out == broken {
			return badUpload
		}
	}
	return out
}

// failed is the outcome of an error of the server's connection.
func (s *session) failed(err error, otherwise outcome) outcome {
	select {
	case <-s.gone:
		return cut
	default:
	}
	if errors.Is(err, errGone) {
		return cut
	}
	return otherwise
}

// upload passes the rest of the request's body on.
func (s *session) upload(x *exchange, up *upstream) error {
	d := direction{s, &up.flow, true}
	var err error
	if x.body == http1.Sized {
		err = d.pump(&up.side, &s.client, x.left)
	} else {
		err = d.pumpChunks(&up.side, &s.client, &x.chunks)
	}
	switch read := errors.As(err, new(errRead)); {
	case err == nil:
		s.mu.Lock()
		s.alone = s.client.buf.empty()
		s.mu.Unlock()
		s.enter(waiting)
	case errors.As(err, new(*http1.Fault)):
		up.end(s.e.watch, true) // the server has to learn that this is no body
	case read && errors.Is(err, io.EOF):
		up.closeWrite() // as the client did, in the middle
	case read && !isTimeout(err), !read && s.client.ended(): // the client reset it; of splicing only the client can tell
		s.abort()
	}
	return err
}

// pumpChunks passes the rest of a chunked body on.
func (d direction) pumpChunks(dst, src *side, c *http1.Chunks) error {
	for {
		if src.buf.empty() {
			if c.Left() >= spliceFrom {
				n := c.Left()
				if err := d.pump(dst, src, n); err != nil {
					return err
				}
				c.Skip(n)
				continue
			}
			if err := src.fill(); err != nil {
				return errRead{err}
			}
		}
		n, done, err := c.Feed(src.buf.bytes())
		if err != nil {
			return err
		}
		if err := d.write(dst, src.buf.bytes()[:n]); err != nil {
			return err
		}
		src.buf.consume(n)
		if done {
			return nil
		}
	}
}

// respond passes the server's responses on up to the final one.
func (s *session) respond(x *exchange, up *upstream) outcome {
	d := direction{s, &up.flow, false}
	for answered := false; ; answered = true {
		size, err := s.awaitAnswer(up)
		if err == nil {
			err = x.resp.ParseResponse(up.buf.bytes()[:size])
		}
		switch f := faultOf(err); {
		case f != nil:
			return s.fault(f, answered)
		case err != nil && !answered && up.buf.empty():
			x.reset = !errors.Is(err, io.EOF)
			return s.failed(err, unanswered)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return s.failed(err, truncated)
		case err != nil:
			return s.failed(err, broken)
		}
		if x.resp.Status/100 != 1 || x.resp.Status == 101 {
			return s.final(x, up, answered)
		}
		if err := d.write(&s.client, up.buf.bytes()[:size]); err != nil {
			return s.failed(err, cut)
		}
		up.buf.consume(size)
	}
}

// faultOf is what is malformed about a head; nil: nothing is.
func faultOf(err error) *http1.Fault {
	if err == nil {
		return nil
	}
	var f *http1.Fault // errors.As has it on the heap
	errors.As(err, &f)
	return f
}

// awaitAnswer reads the head of a response. A client that waits for long is watched, and so is whether the server is there.
func (s *session) awaitAnswer(up *upstream) (size int, err error) {
	if s.client.watch.Load() != 0 && up.alive {
		return readHead(&up.side, 0)
	}
	_ = up.tcp.SetReadDeadline(time.Now().Add(watchAfter))
	size, err = readHead(&up.side, 0)
	up.resume()
	if isTimeout(err) {
		s.watchClient()
		up.keepAlive()
		return readHead(&up.side, 0)
	}
	return size, err
}

func (s *session) fault(f *http1.Fault, answered bool) outcome {
	s.e.count.fault("response-" + f.Kind)
	if answered {
		return broken
	}
	return badAnswer
}

// final passes the final response on, whose head is in the buffer.
func (s *session) final(x *exchange, up *upstream, answered bool) outcome {
	d := direction{s, &up.flow, false}
	size, rest := x.resp.Size, up.buf.bytes()[x.resp.Size:]
	var chunks http1.Chunks
	var err error
	left, done := int64(0), true
	switch x.resp.ResponseBody(x.method) {
	case http1.Switch:
		if x.resp.Status == 101 && !x.req.Upgrade {
			return s.fault(&http1.Fault{Kind: http1.BadLine}, answered)
		}
		if err := d.write(&s.client, up.buf.bytes()[:size]); err != nil {
			return s.failed(err, cut)
		}
		up.buf.consume(size)
		return switched
	case http1.Sized:
		n := int(min(int64(len(rest)), x.resp.Length))
		size, left = size+n, x.resp.Length-int64(n)
	case http1.Chunked:
		var n int
		if n, done, err = chunks.Feed(rest); err != nil {
			return s.fault(err.(*http1.Fault), answered)
		}
		size += n
	case http1.ToEnd:
		size, left = size+len(rest), -1
	}
	if err := d.write(&s.client, up.buf.bytes()[:size]); err != nil {
		return s.failed(err, cut)
	}
	up.buf.consume(size)
	if !done || left != 0 {
		s.watchClient()
		up.keepAlive()
	}
	if !done {
		err = d.pumpChunks(&s.client, &up.side, &chunks)
	} else if left != 0 {
		err = d.pump(&s.client, &up.side, left)
	}
	switch {
	case err == nil:
		return complete
	case errors.As(err, new(*http1.Fault)):
		s.e.count.fault("response-" + http1.BadChunk)
		return broken
	case !errors.As(err, new(errRead)): // writing failed, or splicing, of which nobody knows which end
		return s.failed(err, broken)
	case errors.Is(err, io.EOF):
		return s.failed(err, truncated)
	}
	return s.failed(err, broken)
}
