package intercept

import (
	"bytes"
	"hash/maphash"
	"strconv"
	"strings"

	"forefend.dev/forefend/netns/intercept/http1"
	"forefend.dev/forefend/netns/intercept/http2"
)

// answers remembers the heads of a server's answers, as heads does those of requests.
type answers struct {
	heads, trailers [8]knownAnswer
}

type knownAnswer struct {
	block  []byte
	status int
	length int64
}

// maxInterim is how many heads may come before the final one.
const maxInterim = 32

func (m *mux) answerHead(l *link, f http2.Frame, p []byte) error {
	block, err := l.bare(f, p)
	if err != nil {
		return err
	}
	st, err := l.stream(f.Stream)
	if err != nil {
		return err
	}
	var fault error
	var k *knownAnswer
	if l.decoder.Settled() {
		k = l.answers.find(block, st != nil && st.answered)
	}
	if k == nil {
		if block, fault, err = l.decode(block); err != nil {
			return err
		}
	}
	l.noise.calm(0)
	if st == nil {
		return nil
	}
	end := f.Has(http2.EndStream)
	if st.answered {
		return m.answerTrailers(st, k, block, fault, end)
	}
	if fault == nil && k == nil {
		k, fault = l.answers.read(&l.wire, block, false)
	}
	if k == nil {
		k = new(knownAnswer)
	}
	status, length := k.status, k.length
	if fault == nil && status < 200 {
		if st.interim++; end || st.interim > maxInterim {
			fault = &http1.Fault{Kind: http2.BadPseudo}
		}
	}
	if fault != nil {
		m.e.count.fault("response-" + fault.(*http1.Fault).Kind)
		m.lost(st, "the server's answer is no single HTTP response")
		return nil
	}
	if status >= 200 {
		method := st.request.method
		st.answered = true
		st.down.left = length
		switch {
		case method == "HEAD", status == 204, status == 304:
			st.down.left = 0
		case method == "CONNECT":
			st.down.left = -1
		case end && length > 0:
			m.e.count.fault("response-" + http2.BadBody)
			st.answered = false
			m.lost(st, "the server's answer is no single HTTP response")
			return nil
		}
	}
	m.client.headers(st.id, block, end)
	m.count(&st.down, len(block)+http2.FrameHeader)
	if end {
		st.down.ended = true
		m.passedEnd(&st.down)
	}
	return m.full(&m.client)
}

// find is what a block said before, as a head or as trailers; nil: it is not known.
func (a *answers) find(block []byte, trailers bool) *knownAnswer {
	if k := a.at(block, trailers); k != nil && bytes.Equal(k.block, block) {
		return k
	}
	return nil
}

// at is where a block is remembered; nil: nowhere.
func (a *answers) at(block []byte, trailers bool) *knownAnswer {
	if len(block) > maxKnown || len(block) == 0 {
		return nil
	}
	n := maphash.Bytes(headSeed, block) % uint64(len(a.heads))
	if trailers {
		return &a.trailers[n]
	}
	return &a.heads[n]
}

// read is what the server's block, which was just read, says. The error is an *http1.Fault.
func (a *answers) read(w *wire, block []byte, trailers bool) (*knownAnswer, error) {
	var h http2.Head
	var err error
	if trailers {
		err = h.ParseTrailers(&w.block)
	} else {
		err = h.ParseResponse(&w.block)
	}
	if err != nil {
		return nil, err
	}
	k := &knownAnswer{status: h.Status, length: h.Length}
	if at := a.at(block, trailers); w.block.Again && at != nil {
		k.block = append(at.block[:0], block...)
		*at = *k
	}
	return k, nil
}

func (m *mux) answerTrailers(st *stream, k *knownAnswer, block []byte, fault error, end bool) error {
	if fault == nil && k == nil {
		_, fault = st.link.answers.read(&st.link.wire, block, true)
	}
	if fault == nil && (!end || st.down.ended) {
		fault = &http1.Fault{Kind: http2.BadTrailer}
	}
	if fault == nil && st.down.left > 0 {
		fault = &http1.Fault{Kind: http2.BadBody}
	}
	if fault != nil {
		m.e.count.fault("response-" + fault.(*http1.Fault).Kind)
		m.lost(st, "the server's answer is no single HTTP response")
		return nil
	}
	st.down.ended = true
	if len(st.down.queue) == 0 {
		m.trail(&st.down, block)
		return nil
	}
	m.wait(&st.down, block)
	return m.full(nil)
}

func (m *mux) answerData(l *link, f http2.Frame, p []byte) error {
	if err := l.received(f.Length); err != nil {
		return err
	}
	n, end := int64(f.Length), f.Has(http2.EndStream)
	data, ok := f.Unpad(p)
	if !ok {
		return &fatal{http2.ProtocolError, "padding that is longer than its frame"}
	}
	if len(data) == 0 && !end {
		if err := l.annoy(1); err != nil {
			return err
		}
	} else {
		l.noise.calm(0)
	}
	st, err := l.stream(f.Stream)
	if st == nil {
		l.credit(n)
		return err
	}
	h := &st.down
	h.recv -= n
	bad := n > 0 && h.recv < 0 && l.unacked == 0 || !st.answered || h.ended
	if h.left >= 0 {
		h.left -= int64(len(data))
		bad = bad || h.left < 0 || end && h.left > 0
	}
	if bad {
		l.credit(n)
		m.e.count.fault("response-" + http2.BadBody)
		m.lost(st, "the server's answer is no single HTTP response")
		return nil
	}
	l.credit(n - int64(len(data)))
	m.body(h, data, end)
	m.refill(h) // padding counts, and the client sees none of it
	return nil
}

// answerReset takes the server's reset of a stream. One that comes after a whole answer means that the rest of the request is
// not wanted.
func (m *mux) answerReset(l *link, f http2.Frame, p []byte) error {
	st, err := l.stream(f.Stream)
	if st == nil {
		return err
	}
	code := http2.Code(http2.Uint32(p))
	l.release(m, st)
	if st.down.ended && !st.down.closed {
		st.resets, st.after = true, code
		return nil
	}
	m.endBoth(st, code, http2.NoError)
	return nil
}

// lost answers a stream whose server fails it, or resets it if the answer has begun.
func (m *mux) lost(st *stream, why string) {
	if st.down.ended { // it has the answer
		st.resets, st.after = true, http2.NoError
		if m.resetLink(st, http2.Cancel); st.opened {
			st.link.release(m, st) // what the client goes on sending is for nobody
		}
		if st.down.closed {
			m.finish(st)
		}
		return
	}
	m.e.count.failed.Add(1)
	if !st.answered {
		m.answer(st, 502, why)
		return
	}
	if st.request.grpc {
		m.breakOff(st, 14, why)
		return
	}
	m.endBoth(st, http2.InternalError, http2.Cancel)
}

// Codes of gRPC (google.golang.org/grpc/codes) by the statuses that we answer with.
var grpcCodes = map[int]int{400: 13, 403: 7, 501: 12, 502: 14, 503: 14, 504: 14}

// answer answers a stream ourselves. Its server, if there is one, is told to stop.
func (m *mux) answer(st *stream, status int, why string) {
	text := "forefend: " + why + "\n"
	m.takeOver(st)
	if st.request != nil && st.request.grpc {
		m.own(st, grpcHead(grpcCodes[status], why, true), nil)
		return
	}
	block := http2.AppendField(nil, ":status", strconv.Itoa(status))
	block = http2.AppendField(block, "server", "forefend")
	block = http2.AppendField(block, "content-type", "text/plain; charset=utf-8")
	block = http2.AppendField(block, "content-length", strconv.Itoa(len(text)))
	if st.request != nil && st.request.method == "HEAD" {
		text = ""
	}
	m.own(st, block, []byte(text))
}

// breakOff ends an answer of gRPC that has begun.
func (m *mux) breakOff(st *stream, code int, why string) {
	m.takeOver(st)
	st.down.ended = true
	m.trail(&st.down, grpcHead(code, why, false))
}

// takeOver has the rest of a stream's answer be ours, after which the client need not send more.
func (m *mux) takeOver(st *stream) {
	m.resetLink(st, http2.Cancel)
	if l := st.link; l != nil {
		l.credit(int64(len(st.down.queue)))
		l.leave(m, st)
		st.link, st.opened = nil, false
	}
	m.client.credit(int64(len(st.up.queue)))
	m.unhold(st.block, st.up.trailers, st.down.trailers)
	st.down.queue, st.up.queue, st.block, st.up.trailers, st.down.trailers = nil, nil, nil, nil, nil
	st.ours, st.answered, st.limits, st.resets = true, true, nil, true
}

// own sends an answer of ours.
func (m *mux) own(st *stream, block, body []byte) {
	m.client.own += len(block) + http2.FrameHeader
	end := len(body) == 0
	m.client.headers(st.id, block, end)
	if end {
		st.down.ended = true
		m.passedEnd(&st.down)
		return
	}
	m.body(&st.down, body, true)
}

// grpcHead is the block that ends a call: alone, or as trailers.
func grpcHead(code int, why string, alone bool) (block []byte) {
	if alone {
		block = http2.AppendField(block, ":status", "200")
		block = http2.AppendField(block, "content-type", "application/grpc")
	}
	block = http2.AppendField(block, "grpc-status", strconv.Itoa(code))
	return http2.AppendField(block, "grpc-message", percent("forefend: "+why))
}

// percent encodes a message as gRPC does.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			const digits = "0123456789ABCDEF"
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}
