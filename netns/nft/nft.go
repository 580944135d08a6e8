// Package nft keeps what a container's packets may leave by in its network namespace, as one table of netfilter (docs/decisions/0069).
//
//   - New TCP connections are redirected to the interceptor, and so are queries for names, except to loopback and to the namespace's
//     own addresses.
//   - Only the interceptor's sockets, known by their cgroup, may mark packets; everybody else's mark is a forgery and ends there.
//   - What leaves is checked again at the end: its mark must belong to the device it leaves by, and a frame that did not come
//     this way, a packet socket's, leaves by none.
//
// Set is given the whole of what shall hold, and puts it in force in one batch. Attach and Detach change one tunnel of it in
// one batch each. Everything here is for a thread inside the namespace (enter.Namespace.Do), in the cgroup namespace of the node.
//
// Not for: which tunnel a connection takes (the interceptor marks its sockets), where marks lead (package route), and rules by
// destination of datagrams (package gate).
package nft

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/marks"
)

// Cgroup is one of the v2 hierarchy: its inode number, and how many levels below the root it is.
type Cgroup struct {
	ID    uint64
	Level uint32
}

// Pass is what the end of our rules writes on a packet for the device to know that it came by them: 61 bits that only this
// namespace's rules know, so that a packet socket, whose frames pass by no rule but the device's, cannot write them itself.
type Pass struct{ Mark, Priority uint32 }

// NewPass draws one.
func NewPass() Pass {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	// Neither is 0, and the mark without its upper bit is none of package marks.
	return Pass{binary.NativeEndian.Uint32(b[:4])&0x7fffffff | 1, binary.NativeEndian.Uint32(b[4:]) | 1<<31}
}

// Tunnel is a way out: packets with its mark leave by its device, and by no other.
type Tunnel struct {
	Mark   uint32
	Device string
}

// State is the whole of what shall hold.
type State struct {
	Interceptor Cgroup
	Port        uint16       // where the interceptor listens, on loopback
	Own         []netip.Addr // the namespace's, besides loopback
	Uplinks     []string     // its devices, besides loopback and tunnels
	Tunnels     []Tunnel
	Pass        Pass
	// Web says that requests must be readable: UDP to ports 443 and 853 is refused, so that clients come by TCP.
	Web bool
}

// table of both families, and what it is made of.
type table struct {
	conn          *nftables.Conn
	inet, netdev  *nftables.Table
	ways, entries *nftables.Set
	own4, own6    *nftables.Set
	pass          Pass
	interceptor   Cgroup
	port          uint16
	web           bool
	planned       map[string]int // rules of inet's chains, as they are added
	numbered      uint32         // sets, as they are added
}

// dial opens the thread's namespace.
func dial() (*table, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open netfilter: %w", err)
	}
	t := &table{
		conn:   conn,
		inet:   &nftables.Table{Family: nftables.TableFamilyINet, Name: marks.Chain},
		netdev: &nftables.Table{Family: nftables.TableFamilyNetdev, Name: marks.Chain},

		planned: make(map[string]int),
	}
	t.ways = &nftables.Set{Table: t.inet, Name: "ways", Concatenation: true, KeyType: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeIFName)}
	t.entries = &nftables.Set{Table: t.inet, Name: "entries", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeMark}
	t.own4 = &nftables.Set{Table: t.inet, Name: "own4", KeyType: nftables.TypeIPAddr}
	t.own6 = &nftables.Set{Table: t.inet, Name: "own6", KeyType: nftables.TypeIP6Addr}
	return t, nil
}

// set adds a set. It is numbered here: the library counts in a variable that all goroutines share, without a lock.
func (t *table) set(s *nftables.Set, elements []nftables.SetElement) error {
	t.numbered++
	s.ID = t.numbered
	return t.conn.AddSet(s, elements)
}

func (t *table) close() { _ = t.conn.CloseLasting() }

func (t *table) commit(what string) error {
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("%s: %w", what, lacking(err))
	}
	return nil
}

// Set puts s in force, whatever was there of ours before. Counters begin anew.
func Set(s State) error {
	if s.Port == 0 || s.Interceptor.ID == 0 || s.Pass == (Pass{}) {
		return errors.New("egress rules without an interceptor: its cgroup, port and pass are needed")
	}
	t, err := dial()
	if err != nil {
		return err
	}
	defer t.close()
	t.interceptor, t.port, t.web, t.pass = s.Interceptor, s.Port, s.Web, s.Pass
	for _, whole := range []*nftables.Table{t.inet, t.netdev} {
		t.conn.AddTable(whole) // what is not there cannot be deleted
		t.conn.DelTable(whole)
		t.conn.AddTable(whole)
	}
	for _, name := range counters {
		t.conn.AddObj(&nftables.NamedObj{Table: t.of(name), Name: string(name), Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	if err := t.sets(s); err != nil {
		return err
	}
	t.chains()
	for _, device := range s.Uplinks {
		t.guard(device)
		t.neighbours(device)
	}
	for _, tunnel := range s.Tunnels {
		t.guard(tunnel.Device)
	}
	return t.commit("put egress rules in force")
}

// sets makes the sets with what is in them.
func (t *table) sets(s State) error {
	var own4, own6, ways, entries []nftables.SetElement
	for _, a := range s.Own {
		if a = a.Unmap(); a.Is4() {
			own4 = append(own4, nftables.SetElement{Key: a.AsSlice()})
		} else {
			own6 = append(own6, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	for _, device := range s.Uplinks {
		ways = append(ways, way(0, device), way(marks.Direct, device), way(marks.Inbound, device))
		entries = append(entries, entry(device, marks.Inbound))
	}
	for _, tunnel := range s.Tunnels {
		ways = append(ways, way(tunnel.Mark, tunnel.Device))
		entries = append(entries, entry(tunnel.Device, tunnel.Mark))
	}
	return errors.Join(t.set(t.ways, ways), t.set(t.entries, entries), t.set(t.own4, own4), t.set(t.own6, own6))
}

// Attach lets a tunnel's mark leave by its device, which must exist and not be up yet: no packet passes it unguarded.
func Attach(pass Pass, tunnel Tunnel) error {
	return change("attach a tunnel", func(t *table) error {
		t.pass = pass
		t.guard(tunnel.Device)
		return errors.Join(t.conn.SetAddElements(t.ways, []nftables.SetElement{way(tunnel.Mark, tunnel.Device)}),
			t.conn.SetAddElements(t.entries, []nftables.SetElement{entry(tunnel.Device, tunnel.Mark)}))
	})
}

// Detach undoes Attach. The device may be gone already, and so may the rules.
func Detach(tunnel Tunnel) error {
	withdraw := func(t *table) error {
		return errors.Join(t.conn.SetDeleteElements(t.ways, []nftables.SetElement{way(tunnel.Mark, tunnel.Device)}),
			t.conn.SetDeleteElements(t.entries, []nftables.SetElement{entry(tunnel.Device, tunnel.Mark)}))
	}
	err := change("detach a tunnel", func(t *table) error {
		t.conn.DelChain(&nftables.Chain{Table: t.netdev, Name: tunnel.Device})
		return withdraw(t)
	})
	if errors.Is(err, unix.ENOENT) { // up to Linux 6.15 a device takes its chain along
		err = change("detach a tunnel", withdraw)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Clear takes everything of ours away.
func Clear() error {
	return change("take egress rules away", func(t *table) error {
		for _, whole := range []*nftables.Table{t.inet, t.netdev} {
			t.conn.AddTable(whole)
			t.conn.DelTable(whole)
		}
		return nil
	})
}

func change(what string, do func(*table) error) error {
	t, err := dial()
	if err != nil {
		return err
	}
	defer t.close()
	if err := do(t); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return t.commit(what)
}

// way is an element: what has this mark may leave by this device.
func way(mark uint32, device string) nftables.SetElement {
	return nftables.SetElement{Key: append(binaryutil.NativeEndian.PutUint32(mark), name(device)...)}
}

// entry is an element: what comes in by this device gets this mark.
func entry(device string, mark uint32) nftables.SetElement {
	return nftables.SetElement{Key: name(device), Val: binaryutil.NativeEndian.PutUint32(mark)}
}

// name is a device's name as the kernel compares it.
func name(device string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, device)
	return b
}

// UnsupportedError says what the kernel lacks. It matches errors.ErrUnsupported.
type UnsupportedError struct {
	Feature string
	Cause   error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this kernel lacks %s, which egress rules are made of: %v", e.Feature, e.Cause)
}

// Unwrap implements errors.Is and errors.As.
func (e *UnsupportedError) Unwrap() []error { return []error{errors.ErrUnsupported, e.Cause} }

// lacking tells a kernel without something from other errors: it answers ENOENT for an unknown expression, EOPNOTSUPP for a
// hook and EPROTONOSUPPORT without nf_tables.
func lacking(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return &UnsupportedError{"netfilter's egress hook (Linux 5.16, CONFIG_NETFILTER_EGRESS)", err}
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return &UnsupportedError{"nf_tables (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_NETDEV)", err}
	}
	return err
}
