package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/rate"
)

// spliceFrom is from how many bytes to come the kernel moves them.
const spliceFrom = 64 << 10

// direction is one way of a flow.
type direction struct {
	s    *session
	flow *live
	up   bool
}

func (d direction) limits() []*rate.Limit {
	l := d.flow.limits.Load()
	switch {
	case l == nil:
		return nil
	case d.up:
		return l.up
	}
	return l.down
}

func (d direction) count(n int64) {
	if d.up {
		d.flow.sent.Add(n)
	} else {
		d.flow.received.Add(n)
	}
}

// write passes bytes within the flow's limits.
func (d direction) write(dst *side, b []byte) error {
	l := d.limits()
	if len(l) == 0 {
		d.count(int64(len(b)))
		return dst.write(b)
	}
	for step := piece(l); len(b) > 0; {
		n := min(int64(len(b)), step)
		if !take(l, n, d.s.gone) {
			return errGone
		}
		if err := dst.write(b[:n]); err != nil {
			return err
		}
		d.count(n)
		b = b[n:]
	}
	return nil
}

// errRead wraps what ended the reading of a pump, which other errors do not.
type errRead struct{ error }

func (e errRead) Unwrap() error { return e.error }

// pump passes n bytes from one side to the other; less than 0: all until the end, which is no error then. What is known
// to be long is moved by the kernel.
func (d direction) pump(dst, src *side, n int64) error {
	for n != 0 {
		full := false
		if src.buf.empty() {
			if err := src.fill(); err != nil {
				if n < 0 && errors.Is(err, io.EOF) {
					return nil
				}
				return errRead{err}
			}
			full = len(src.buf.bytes()) == bufferSize
		}
		b := src.buf.bytes()
		if n >= 0 {
			b = b[:min(int64(len(b)), n)]
		}
		if err := d.write(dst, b); err != nil {
			return err
		}
		src.buf.consume(len(b))
		if n > 0 {
			n -= int64(len(b))
		}
		if full && (n < 0 || n >= spliceFrom) && src.buf.empty() {
			moved, err := d.splice(dst, src, n)
			if err != nil {
				return err
			}
			if n > 0 {
				n -= moved
			}
		}
	}
	return nil
}

// splice moves at most n bytes in the kernel, and no more than one piece, so that it is counted and limited.
func (d direction) splice(dst, src *side, n int64) (int64, error) {
	l := d.limits()
	step := piece(l)
	if n >= 0 {
		step = min(step, n)
	}
	if dst.tls != nil || src.tls != nil || step < spliceFrom {
		return 0, nil
	}
	if !take(l, step, d.s.gone) {
		return 0, errGone
	}
	moved, err := dst.tcp.ReadFrom(&io.LimitedReader{R: src.tcp, N: step})
	d.count(moved)
	return moved, err
}

// copy passes everything until the end, and passes that too.
func (d direction) copy(dst, src *side) error {
	err := d.pump(dst, src, -1)
	if err == nil {
		dst.closeWrite()
	}
	return err
}

// relay passes bytes both ways until both have ended, or one side is reset, and then the other one is.
func (s *session) relay(up *upstream) {
	up.keepAlive()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if (direction{s, &up.flow, false}).copy(&s.client, &up.side) != nil {
			s.abort()
		}
	}()
	if (direction{s, &up.flow, true}).copy(&up.side, &s.client) != nil {
		s.abort()
	}
	<-done
}

// keepAlive has the kernel find out when a server vanished to which nothing is sent, and keep the way there open meanwhile: what the
// application asks of its own socket ends at ours. A connection that ends after one quick answer needs none.
func (up *upstream) keepAlive() {
	if !up.alive {
		up.alive = true
		_ = up.tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}) // nor does a closed one
	}
}

// serveUnsure relays a connection whose client was silent, or did not finish its first line. If it speaks HTTP or TLS before
// the server says anything, it is served as that.
func (s *session) serveUnsure(c *flow.Context) {
	epoch := s.e.epoch.Load()
	d, err := s.ask(c)
	if err != nil || d.Profile.Deny {
		s.serveLate()
		return
	}
	up := s.openDecided(c, d, epoch)
	if up == nil {
		return
	}
	up.keepAlive()
	down := make(chan error, 1)
	go func() {
		err := (direction{s, &up.flow, false}).copy(&s.client, &up.side)
		if err != nil && !isTimeout(err) {
			s.abort()
		}
		down <- err
	}()
	switch p := s.listen(up); p {
	case flow.HTTP, flow.TLS:
		up.interrupt()
		if err := <-down; !isTimeout(err) || up.flow.received.Load() > 0 {
			s.abort() // the server spoke, or hung up, just now: what it meant is not clear
			return
		}
		up.resume()
		if p == flow.HTTP {
			up.flow.rest()
			s.serveRequests()
			return
		}
		s.drop(up, false)
		s.serveTLS()
		return
	case flow.Opaque:
		if (direction{s, &up.flow, true}).copy(&up.side, &s.client) != nil {
			s.abort()
		}
	default:
		s.abort()
	}
	<-down
}

// serveLate serves a client that said nothing yet and may have no opaque connection: it may still speak HTTP or TLS.
func (s *session) serveLate() {
	p, known := flow.Opaque, s.speaksFirst()
	for end := time.Now().Add(s.e.limits.Load().Head); !known && s.fillWithin(time.Until(end)) == nil; {
		p, known = recognise(s.client.buf.bytes())
	}
	switch {
	case known && p == flow.HTTP:
		s.serveRequests()
	case known && p == flow.TLS:
		s.serveTLS()
	default:
		s.e.count.denied.Add(1)
		s.abort()
	}
}

// listen waits for the client's first bytes and recognises them. It returns HTTP or TLS only while nobody else has
// spoken, and "" for a connection that must not go on.
func (s *session) listen(up *upstream) flow.Protocol {
	seen := slices.Clone(s.client.buf.bytes())
	d := direction{s, &up.flow, true}
	shown := false // the server has seen the beginning
	for {
		if len(seen) > 0 { // it took too long before
			if d.write(&up.side, s.client.buf.bytes()) != nil {
				return ""
			}
			s.client.buf.drop()
			shown = true
		}
		if err := s.client.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				return flow.Opaque
			}
			return ""
		}
		if up.flow.received.Load() > 0 && !shown {
			s.e.spoke.add(s.to)
			return flow.Opaque
		}
		p, known := recognise(append(seen, s.client.buf.bytes()...))
		for end := time.Now().Add(partialWait); !known && !shown; p, known = recognise(s.client.buf.bytes()) {
			if s.fillWithin(time.Until(end)) != nil {
				break
			}
		}
		switch {
		case known && p == flow.Opaque:
			return p
		case known && !shown:
			return p
		case known: // the server saw half of a request, of which nothing was decided
			s.e.count.cut.Add(1)
			return ""
		}
		seen = append(seen, s.client.buf.bytes()...) // shorter than maxLine: of more it is known
	}
}

// originate makes the connection one of TLS, with the certificate checked for the name, that speaks the protocol in it. Servers
// that know nothing of ALPN speak HTTP/1.1.
func (up *upstream) originate(ctx context.Context, o *Origination, name, protocol string) error {
	config := o.TLS.Clone()
	config.ServerName, config.NextProtos, config.InsecureSkipVerify = name, []string{protocol}, false
	conn := tls.Client(up.tcp, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		if protocol == "h2" && strings.Contains(err.Error(), "no application protocol") {
			return fmt.Errorf("%s does not offer HTTP/2 in TLS, which the client speaks: %w", name, err)
		}
		return err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; protocol == "h2" && got != "h2" {
		_ = conn.Close()
		return fmt.Errorf("%s does not offer HTTP/2 in TLS, which the client speaks: it chose %q", name, got)
	}
	up.tls = conn
	return nil
}

// pause lets descriptors become free.
func (e *Engine) pause() {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-e.ctx.Done():
	}
}
