package intercept

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/names"
	"forefend.dev/forefend/netns/intercept/rate"
)

// Packets sends datagrams by tunnels.
type Packets interface {
	// DialPacket makes a socket that is connected to c.Destination by a tunnel that fits the decision's profile, from a port of its own.
	DialPacket(ctx context.Context, c flow.Context, d flow.Decision) (Socket, error)
}

// Socket sends datagrams to one server.
type Socket struct {
	*net.UDPConn
	Tunnel   string
	Receipts bool // the tunnel's gateway counts them, too
}

// domain is the port on which queries for names are looked for.
const domain = 53

// ClassName is the class of the data of a query for a name that nothing else is known of: the name, and no content.
const ClassName = "name"

// lookups are what an Engine knows and counts of queries for names.
type lookups struct {
	known names.Map
	pend  chan struct{} // one for each query that waits for its answer
	paces atomic.Pointer[pace]

	queries, denied, failed, dropped, malformed, forged, none, withheld, askedBytes, answeredBytes atomic.Int64
}

// pace is how many queries a second are taken.
type pace struct {
	limit *rate.Limit
	per   int
}

const (
	// maxPending is how many queries of a container may wait for answers at once.
	maxPending = 512
	// answerWait is how long a server may take; clients ask again before.
	answerWait = 10 * time.Second
	// paceWait is how much beyond its pace, or a rule's rate, a container may ask before queries are dropped, as time at that pace.
	paceWait = time.Second
)

// Lookups are the numbers of an Engine's queries for names since it was made. Bytes and names that do not exist tell of data that
// leaves, or floods, by queries.
type Lookups struct {
	Queries   int64 `json:"queries"`
	Denied    int64 `json:"denied"`    // by a decision
	Failed    int64 `json:"failed"`    // no decision, no tunnel, or nobody there
	Dropped   int64 `json:"dropped"`   // beyond the pace or a rule's rate, or too many wait
	Malformed int64 `json:"malformed"` // not understood
	Forged    int64 `json:"forged"`    // datagrams from a server's address that answer nothing
	None      int64 `json:"none"`      // names that do not exist
	Withheld  int64 `json:"withheld"`  // answers that clients heard without their records, for the keys in them
	Asked     int64 `json:"asked"`     // bytes
	Answered  int64 `json:"answered"`  // bytes
	Known     int64 `json:"known"`     // pairs of a name and an address that are remembered
}

func (l *lookups) counters() Lookups {
	return Lookups{
		Queries: l.queries.Load(), Denied: l.denied.Load(), Failed: l.failed.Load(), Dropped: l.dropped.Load(), Malformed: l.malformed.Load(),
		Forged: l.forged.Load(), None: l.none.Load(), Withheld: l.withheld.Load(), Asked: l.askedBytes.Load(), Answered: l.answeredBytes.Load(), Known: int64(l.known.Len()),
	}
}

// admit tells whether one more query may be taken now.
func (l *lookups) admit(perSecond int) bool {
	p := l.paces.Load()
	if p == nil || p.per != perSecond {
		p = &pace{rate.New(int64(perSecond)), perSecond}
		l.paces.Store(p)
	}
	if p.limit.Owed(time.Now()) > paceWait {
		l.dropped.Add(1)
		return false
	}
	p.limit.Take(time.Now(), 1)
	l.queries.Add(1)
	return true
}

// late tells whether a query would wait for its turn for so long that it is dropped: its client would have asked again by then. It does not
// wait for turns that it has taken.
func (l *lookups) late(limits []*rate.Limit, taken charge) bool {
	now := time.Now()
	if !slices.ContainsFunc(limits, func(l *rate.Limit) bool { return !slices.Contains(taken, l) && l.Owed(now) > paceWait }) {
		return false
	}
	l.dropped.Add(1)
	return true
}

// ofQuery is the context of a query for a name: the destination is who will be asked.
func (s *Settings) ofQuery(q names.Query, to netip.AddrPort) flow.Context {
	if s.Names.Resolver.IsValid() {
		to = s.Names.Resolver
	}
	c := s.base(flow.DNS, to)
	c.Host, c.Service = q.Host, flow.ServiceDNS
	if !q.Write {
		c.Operation = flow.Read
	}
	if data := s.mapped(&c, func(m *Mapping) string { return m.Data }); data != "" {
		c.Data = data
	} else if c.Data == "" {
		c.Data = ClassName
	}
	return c
}

// pace is how many queries a second are taken.
func (s *Settings) pace() int {
	if s.Names.Queries > 0 {
		return s.Names.Queries
	}
	return 5000
}

// checked tells whether the site says whose answers are to be believed, so that hosts can be checked by them.
func (s *Settings) checked() bool { return s.Names.Resolver.IsValid() || len(s.Names.Resolvers) > 0 }

// listed tells whether an answer of a server is to be believed.
func (s *Settings) listed(server netip.Addr) bool {
	return server == s.Names.Resolver.Addr() || slices.Contains(s.Names.Resolvers, server)
}

// asked decides a query; code is what it is answered with if it may not pass.
func (e *Engine) asked(s *Settings, q names.Query, to netip.AddrPort) (c flow.Context, d flow.Decision, code names.Code) {
	c = s.ofQuery(q, to)
	d, err := e.decider.Decide(e.ctx, c)
	if err == nil && slices.Contains(d.Depends, flow.FieldProcess) { // nobody looks for who asks: the application's resolver may be another process
		c.Process = new(flow.Process)
		d, err = e.decider.Decide(e.ctx, c)
	}
	switch {
	case err != nil:
		e.lookups.failed.Add(1)
		return c, d, names.Failed
	case d.Profile.Deny:
		e.lookups.denied.Add(1)
		return c, d, names.Refused
	}
	return c, d, 0
}

// heard takes what an answer says into account, and returns what of it the client may hear; nil: nothing.
func (e *Engine) heard(s *Settings, b []byte, from netip.AddrPort) []byte {
	e.lookups.answeredBytes.Add(int64(len(b)))
	if !s.Names.ECH && names.Hides(b) {
		e.lookups.withheld.Add(1)
		return names.Without(b)
	}
	host, a := names.ReadAnswer(b)
	if a.None {
		e.lookups.none.Add(1)
	}
	if len(a.Addresses) > 0 {
		e.lookups.known.Learn(host, a, s.listed(from.Addr()), time.Now())
	}
	return b
}
