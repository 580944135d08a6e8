package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/marks"
)

// Gateway is the whole of what shall hold where tunnels end (package gateway). A peer has one address of each pool, whose last four
// bytes are the same.
type Gateway struct {
	Device  string       // of WireGuard, where peers' packets come from
	Uplink  string       // the only device by which they leave, as from its own address
	Pool4   netip.Prefix // of the peers; zero: none
	Pool6   netip.Prefix
	Others4 bool // what is not of peers may be forwarded, as far as other tables let it
	Others6 bool
	Classes []RateClass
	Rated   []Rated
}

// RateClass is a rate that each of its peers has for itself, each way.
type RateClass struct {
	Name string
	Rate int64 // bytes per second
}

// Rated is a peer of a class.
type Rated struct {
	Tail  [4]byte // of its addresses
	Class string
}

// Causes for which a gateway drops packets.
const (
	Spoofed Counter = "spoofed" // from an address that is no peer's, or from outside as if from a peer
	Between Counter = "between" // from one peer to another
	Astray  Counter = "astray"  // from a peer to a device that is not the uplink
	Local   Counter = "local"   // from a peer to the gateway itself
	Unasked Counter = "unasked" // to a peer, from whom nobody asked
	Over    Counter = "over"    // beyond the rate of the class
	Strange Counter = "strange" // not of peers, and of a family that the machine forwards for nobody else
)

// What rates are metered by.
const (
	rateSize = 65536       // peers that a class can meter at once
	settles  = time.Minute // after which an idle peer's meter is forgotten
	burst    = 128 << 10   // bytes at once beyond a second's: two packets as the kernel joins them
	tailed   = "tails"     // name of the map of classes towards the uplink
	tailedIn = "tails-in"  // and towards peers
)

// GatewayCauses are all of them.
var GatewayCauses = []Counter{Spoofed, Between, Astray, Local, Unasked, Over, Strange}

// dialGateway opens the thread's namespace.
func dialGateway() (*table, *nftables.Set, *nftables.Set, error) {
	t, err := dial()
	if err != nil {
		return nil, nil, nil, err
	}
	t.inet.Name = marks.Gateway
	classes := func(name string) *nftables.Set {
		return &nftables.Set{Table: t.inet, Name: name, IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}
	}
	return t, classes(tailed), classes(tailedIn), nil
}

// SetGateway puts g in force in the thread's namespace, whatever was there of a gateway before. Counters begin anew.
func SetGateway(g Gateway) error {
	t, up, down, err := dialGateway()
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.gateway(g, up, down); err != nil {
		return err
	}
	return t.commit("put a gateway's rules in force")
}

// gateway plans all of g.
func (t *table) gateway(g Gateway, up, down *nftables.Set) error {
	t.conn.AddTable(t.inet) // what is not there cannot be deleted
	t.conn.DelTable(t.inet)
	t.conn.AddTable(t.inet)
	for _, name := range GatewayCauses {
		t.conn.AddObj(&nftables.NamedObj{Table: t.inet, Name: string(name), Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	for _, c := range g.Classes {
		if err := errors.Join(t.class(g, c, upward), t.class(g, c, downward)); err != nil {
			return err
		}
	}
	if err := errors.Join(t.set(up, jumps(upward, g.Rated)), t.set(down, jumps(downward, g.Rated))); err != nil {
		return err
	}
	t.origins(g)
	t.itself(g)
	t.between(g, up, down)
	t.masquerade(g)
	return nil
}

// way of a packet through a gateway.
type direct string

const (
	upward   direct = "up-"   // from a peer
	downward direct = "down-" // to one
)

// jumps leads the packets of peers to the chains of their classes.
func jumps(d direct, rated []Rated) []nftables.SetElement {
	var all []nftables.SetElement
	for _, r := range rated {
		all = append(all, nftables.SetElement{Key: r.Tail[:], VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: string(d) + r.Class}})
	}
	return all
}

// PutRated has peers be of classes that SetGateway made. Who is of one must not be there yet.
func PutRated(rated ...Rated) error {
	return changeRated("rate peers", rated, (*nftables.Conn).SetAddElements)
}

// RemoveRated undoes PutRated.
func RemoveRated(rated ...Rated) error {
	return changeRated("rate peers no more", rated, (*nftables.Conn).SetDeleteElements)
}

func changeRated(what string, rated []Rated, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	t, up, down, err := dialGateway()
	if err != nil {
		return err
	}
	defer t.close()
	if err := errors.Join(do(t.conn, up, jumps(upward, rated)), do(t.conn, down, jumps(downward, rated))); err != nil {
		return err
	}
	return t.commit(what)
}

// ClearGateway takes a gateway's rules away.
func ClearGateway() error {
	t, _, _, err := dialGateway()
	if err != nil {
		return err
	}
	defer t.close()
	t.conn.AddTable(t.inet)
	t.conn.DelTable(t.inet)
	return t.commit("take a gateway's rules away")
}

// HasGateway tells whether each chain of g has as many rules as SetGateway gave it. Who flushes a table leaves it there, without rules.
func HasGateway(g Gateway) (bool, error) {
	g.Rated = nil // they are no rules
	t, up, down, err := dialGateway()
	if err != nil {
		return false, err
	}
	defer t.close()
	if err := t.gateway(g, up, down); err != nil { // which is not committed
		return false, err
	}
	for chain, want := range t.planned {
		rules, err := t.conn.GetRules(t.inet, &nftables.Chain{Table: t.inet, Name: chain})
		if err != nil {
			return false, fmt.Errorf("list rules of netfilter: %w", err)
		}
		if len(rules) != want {
			return false, nil
		}
	}
	return true, nil
}

// GatewayCounts reads how many packets each cause has dropped since SetGateway, without the causes that dropped none.
func GatewayCounts() (map[Counter]uint64, error) {
	t, _, _, err := dialGateway()
	if err != nil {
		return nil, err
	}
	defer t.close()
	counts := make(map[Counter]uint64)
	return counts, t.counted(t.inet, counts)
}

// class makes the chain of a class one way: what is beyond a peer's rate ends there.
func (t *table) class(g Gateway, c RateClass, d direct) error {
	meter := &nftables.Set{Table: t.inet, Name: string(d) + "rate-" + c.Name, KeyType: nftables.TypeIPAddr, Dynamic: true, HasTimeout: true,
		Timeout: settles, Size: rateSize}
	if err := t.set(meter, nil); err != nil {
		return err
	}
	limit := &expr.Limit{Type: expr.LimitTypePktBytes, Rate: uint64(c.Rate), Over: true, Unit: expr.LimitTimeSecond, Burst: burst}
	chain := t.conn.AddChain(&nftables.Chain{Table: t.inet, Name: string(d) + c.Name})
	for _, tail := range g.tails(d) {
		t.rule(chain, tail, []expr.Any{&expr.Dynset{SrcRegKey: 1, SetName: meter.Name, SetID: meter.ID, Operation: dynsetUpdate, Exprs: []expr.Any{limit}}},
			count(Over), verdict(expr.VerdictDrop))
	}
	return nil
}

// dynsetUpdate is NFT_DYNSET_OP_UPDATE.
const dynsetUpdate = 1

// Where addresses are in the headers of both families.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

// tails has the last four bytes of a peer's address in register 1, for each family that there is.
func (g Gateway) tails(d direct) (all [][]expr.Any) {
	at4, at6 := uint32(source4), uint32(source6)
	if d == downward {
		at4, at6 = destination4, destination6
	}
	if g.Pool4.IsValid() {
		all = append(all, append(family(unix.NFPROTO_IPV4), payload(expr.PayloadBaseNetworkHeader, at4, 4)...))
	}
	if g.Pool6.IsValid() {
		all = append(all, append(family(unix.NFPROTO_IPV6), payload(expr.PayloadBaseNetworkHeader, at6+12, 4)...))
	}
	return all
}

// pools matches an address of each pool.
func (g Gateway) pools(d direct) (all [][]expr.Any) {
	at4, at6 := uint32(source4), uint32(source6)
	if d == downward {
		at4, at6 = destination4, destination6
	}
	if g.Pool4.IsValid() {
		all = append(all, append(family(unix.NFPROTO_IPV4), within(g.Pool4, at4)...))
	}
	if g.Pool6.IsValid() {
		all = append(all, append(family(unix.NFPROTO_IPV6), within(g.Pool6, at6)...))
	}
	return all
}

// within matches an address of a prefix.
func within(p netip.Prefix, offset uint32) []expr.Any {
	p = p.Masked()
	value := p.Addr().AsSlice()
	mask := make([]byte, len(value))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	load := payload(expr.PayloadBaseNetworkHeader, offset, uint32(len(value)))
	load = append(load, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(value)), Mask: mask, Xor: make([]byte, len(value))})
	return append(load, is(value)...)
}
