package intercept

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http1"
	"forefend.dev/forefend/netns/intercept/http2"
)

// request is what the head of a stream says. It does not change: streams with the same head share it.
type request struct {
	context   flow.Context
	originate *Origination
	method    string // as it was written
	length    int64  // of Content-Length; -1: there is none
	grpc      bool
	tunnel    string // the protocol of an extended CONNECT
}

// heads remembers the requests of blocks that mean the same again: clients write the same head over and over.
type heads struct {
	settings *Settings
	who      *caller // who opened the connection, where a rule asked
	scratch  memo
	known    [16]knownHead
}

type knownHead struct {
	block   []byte
	end     bool
	request *request
	until   time.Time
}

const (
	maxKnown = 2 << 10 // bytes of a block that is remembered
	// knownFor is how long a head is remembered: tokens end, and so does what speaks for a host.
	knownFor = time.Second
)

var headSeed = maphash.MakeSeed()

// ofKnown is the request that a block stood for before; nil: it is not known any more, or never was.
func (m *mux) ofKnown(block []byte, end bool) *request {
	h := &m.heads
	if settings, who := m.settings(), m.s.process.Load(); h.settings != settings || h.who != who {
		*h = heads{settings: settings, who: who, scratch: h.scratch}
	}
	if len(block) > maxKnown {
		return nil
	}
	k := h.at(block)
	if k.request == nil || k.end != end || !bytes.Equal(k.block, block) || time.Now().After(k.until) {
		return nil
	}
	return k.request
}

// at is where a block is remembered.
func (h *heads) at(block []byte) *knownHead {
	return &h.known[maphash.Bytes(headSeed, block)%uint64(len(h.known))]
}

// ofBlock is the request that the client's block, which was just read, stands for. The error is an *http1.Fault.
func (m *mux) ofBlock(block []byte, end bool) (*request, error) {
	if m.client.block.Again {
		if r := m.ofKnown(block, end); r != nil {
			return r, nil
		}
	}
	settings := m.settings()
	r, err := m.ofHead(settings, end)
	if err == nil && m.client.block.Again && settings == m.heads.settings && len(block) <= maxKnown {
		k := m.heads.at(block)
		k.block, k.end, k.request, k.until = append(k.block[:0], block...), end, r, time.Now().Add(knownFor)
	}
	return r, err
}

func (m *mux) ofHead(settings *Settings, end bool) (*request, error) {
	var h http2.Head
	if err := h.ParseRequest(&m.client.block, end); err != nil {
		return nil, err
	}
	host, port, ok := http1.SplitHost(h.Authority)
	if !ok || len(host) == 0 || string(h.Method) == "CONNECT" && h.Path == nil && port == 0 {
		return nil, &http1.Fault{Kind: http1.BadHost}
	}
	path := m.heads.scratch.scratch[:0]
	if h.Path != nil {
		path = http1.AppendPath(path, h.Path)
	}
	c, err := settings.of(asked{method: h.Method, host: host, path: path, grpc: h.GRPC, fields: h.Fields}, m.s.to, &m.heads.scratch)
	if err != nil {
		return nil, err
	}
	r := &request{context: c, originate: settings.originate(c.Host), method: written(h.Method, c.Method), length: h.Length, grpc: h.GRPC, tunnel: string(h.Protocol)}
	if m.heads.who != nil {
		r.context.Process = &m.heads.who.process
	}
	if r.originate != nil {
		r.context.Destination = r.originate.to(c.Destination)
	}
	return r, nil
}

// to is where a connection goes that was going to an address.
func (o *Origination) to(a netip.AddrPort) netip.AddrPort {
	port := o.Port
	if port == 0 {
		port = 443
	}
	return netip.AddrPortFrom(a.Addr(), port)
}

// decide finds out what becomes of a stream. What the decider does not know at once is asked for beside the other streams.
func (m *mux) decide(st *stream, block []byte) {
	st.epoch = m.e.epoch.Load()
	if r, ok := m.e.decider.(Rememberer); ok {
		if d := r.Known(&st.request.context); d != nil && !slices.Contains(d.Depends, flow.FieldProcess) {
			m.decided(st, block, d, nil)
			return
		}
	}
	m.keep(st, block)
	st.deciding = true
	m.running.Add(1)
	go func() {
		defer m.running.Done()
		c := st.request.context
		d, err := m.s.ask(&c)
		m.mu.Lock()
		defer m.mu.Unlock()
		st.deciding = false
		if st.gone {
			m.busy--
			return
		}
		if !m.over {
			m.decided(st, nil, d, err)
			m.flush()
		}
	}()
}

// keep keeps a stream's head until it can be sent.
func (m *mux) keep(st *stream, block []byte) {
	if block != nil && st.block == nil {
		st.block = append([]byte{}, block...)
		m.hold(int64(len(block)))
	}
}

// decided does what was decided. block is the head where it is not kept.
func (m *mux) decided(st *stream, block []byte, d *flow.Decision, err error) {
	if err != nil || d.Profile.Deny {
		m.e.count.denied.Add(1)
		st.charge.back()
		if err != nil {
			m.answer(st, 503, "no decision: "+err.Error())
		} else {
			m.answer(st, 403, "denied"+because(d))
		}
		return
	}
	st.decision = d
	st.limits = m.limitsOf(d, st.request.context.User)
	wait := st.charge.move(st.limits.ofRequests())
	if wait == 0 {
		m.lead(st, block)
		return
	}
	m.keep(st, block)
	st.queued = true
	m.after(wait, func() {
		if !st.gone {
			st.queued = false
			m.lead(st, nil)
		}
	})
}

// maxLimits is how many users' limits a connection remembers.
const maxLimits = 64

func (m *mux) limitsOf(d *flow.Decision, user string) *limits {
	rates := d.Profile.Rates
	if len(rates) == 0 {
		return nil
	}
	for i := range m.limits {
		if l := &m.limits[i]; l.user == user && slices.Equal(l.rates, rates) {
			return l.limits
		}
	}
	if len(m.limits) >= maxLimits {
		m.limits = slices.Delete(m.limits, 0, 1)
	}
	l := m.e.rates.of(rates, user)
	m.limits = append(m.limits, limitsFor{rates, user, l})
	return l
}

// lead leads a stream to the connection that its decision demands.
func (m *mux) lead(st *stream, block []byte) {
	key := route(&st.request.context, st.decision)
	if st.request.originate != nil {
		key.tls = st.request.context.Host
	}
	l, waits := m.staying(m.linkOf(key), st, block)
	if waits {
		return
	}
	if l == nil {
		if len(m.links) >= maxLinks && !m.dropIdle() {
			m.answer(st, 503, "too many ways at once are asked for over one connection")
			return
		}
		l = m.dial(key, st)
	}
	st.link = l
	if len(l.waiting) > 0 || !l.takes(st) {
		m.keep(st, block)
		st.waiting = true
		l.waiting = append(l.waiting, st)
		return
	}
	if block == nil {
		block = st.block
	}
	m.open(st, block)
}

func (m *mux) linkOf(key routeKey) *link {
	for _, l := range m.links {
		if !l.leaving && l.key == key {
			return l
		}
	}
	return nil
}

// dropIdle ends the connection that was not used for the longest time, if there is one without streams.
func (m *mux) dropIdle() bool {
	var oldest *link
	for _, l := range m.links {
		if l.ready && l.open == 0 && len(l.waiting) == 0 && (oldest == nil || l.last < oldest.last) {
			oldest = l
		}
	}
	if oldest == nil {
		return false
	}
	oldest.leaving = true
	oldest.conn.shut() // its reader does the rest
	m.links = slices.DeleteFunc(m.links, func(l *link) bool { return l == oldest })
	return true
}

// open sends a stream's head to the server.
func (m *mux) open(st *stream, block []byte) {
	l := st.link
	if r := st.request; r.tunnel != "" && !l.connect {
		m.answer(st, 501, "the server offers no extended CONNECT ("+strings.ToLower(r.tunnel)+")")
		return
	}
	if st.epoch != m.e.epoch.Load() { // the rules changed while it waited
		m.keep(st, block)
		st.link = nil
		now := *st.request
		now.context = m.again(st)
		st.request = &now
		m.decide(st, nil)
		return
	}
	st.linkID, st.opened = l.next, true
	l.next += 2
	l.open++
	l.last = st.id
	l.streams[st.linkID] = st
	if l.next > 1<<30 && !l.leaving { // numbers do not come again
		l.leaving = true
		m.elsewhere(l)
	}
	st.up.send = l.initial
	st.down.recv = l.promised
	end := st.up.ended && len(st.up.queue) == 0 && st.up.trailers == nil
	l.headers(st.linkID, block, end)
	m.count(&st.up, len(block)+http2.FrameHeader)
	l.request, l.decision, l.requests = st.request, st.decision, l.requests+1
	m.unhold(st.block)
	st.block = nil
	if end {
		m.passedEnd(&st.up)
	} else if len(st.up.queue) > 0 || st.up.ended {
		m.pump(st, &st.up)
	}
	m.balance(&st.down)
}
