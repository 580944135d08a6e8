package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/link"
)

// What can be in the way of an uplink. errors.ErrUnsupported is a kernel without what is needed.
var (
	errForeign  = errors.New("somebody else's queueing discipline")
	errNoDevice = errors.New("no such device")
)

// device is one of the thread's namespace.
type device struct {
	h    *netlink.Handle
	link netlink.Link
	root netlink.Qdisc // nil: none that the kernel shows
	all  []netlink.Qdisc
}

// open finds a device and its queueing disciplines. It belongs to the caller, who closes its handle.
func open(h *netlink.Handle, name string) (*device, error) {
	link, err := h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, fmt.Errorf("%s: %w", name, errNoDevice)
	}
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	d := &device{h: h, link: link}
	return d, d.look()
}

func (d *device) look() (err error) {
	d.root = nil
	if d.all, err = link.Whole(func() ([]netlink.Qdisc, error) { return d.h.QdiscList(d.link) }); err != nil {
		return fmt.Errorf("queueing disciplines: %w", err)
	}
	for _, q := range d.all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			d.root = q
		}
	}
	return nil
}

// ours tells whether the root is of this package's making. What the kernel gives a device by itself, whatever net.core.default_qdisc names,
// has no handle; whatever anybody asked for has one.
func (d *device) ours() (bool, error) {
	if d.root == nil || d.root.Attrs().Handle == 0 {
		return false, nil
	}
	if handle := d.root.Attrs().Handle; handle != rootHandle || d.root.Type() != "htb" {
		return false, fmt.Errorf("%w (%s %x:)", errForeign, d.root.Type(), handle>>majorBit)
	}
	return true, nil
}

// put makes a device be as planned. What is so already stays as it is, with what waits in it.
func (d *device) put(p plan) error {
	ours, err := d.ours()
	if err != nil {
		return err
	}
	if h, ok := d.root.(*netlink.Htb); ours && ok && h.Defcls != others() { // of another version, and the kernel changes nothing of a root's
		if err := d.remove(); err != nil {
			return err
		}
		ours = false
	}
	if ours {
		return d.fill(p)
	}
	if err := d.begin(); err != nil {
		return err
	}
	if err := d.fill(p); err != nil { // half of it is worse than nothing
		return errors.Join(err, d.remove())
	}
	return nil
}

// begin gives the device a root of ours. Until there are classes, everything passes by it.
func (d *device) begin() error {
	h := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: rootHandle, Parent: netlink.HANDLE_ROOT})
	h.Defcls = others()
	switch err := d.h.QdiscAdd(h); {
	case errors.Is(err, unix.EEXIST): // somebody was faster
		return errForeign
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel has no sch_htb: %w: %w", err, errors.ErrUnsupported)
	case err != nil:
		return fmt.Errorf("queueing discipline: %w", err)
	}
	return d.look()
}

// classes are those of the root. Queues can have classes, too: fq_codel shows each of its flows as one.
func (d *device) classes() ([]netlink.Class, error) {
	all, err := link.Whole(func() ([]netlink.Class, error) { return d.h.ClassList(d.link, 0) })
	if err != nil {
		return nil, fmt.Errorf("classes: %w", err)
	}
	return slices.DeleteFunc(all, func(c netlink.Class) bool { return c.Attrs().Handle>>majorBit != rootHandle>>majorBit }), nil
}

// fill has the root's classes, queues and filters be as planned: first what is to be there, then what is not.
func (d *device) fill(p plan) error {
	index := d.link.Attrs().Index
	classes, err := d.classes()
	if err != nil {
		return err
	}
	for _, c := range p.classes {
		if !slices.ContainsFunc(classes, c.is) {
			if err := d.h.ClassReplace(c.of(index)); err != nil {
				return fmt.Errorf("class %s: %w", netlink.HandleStr(c.handle), err)
			}
		}
		if c.handle != top {
			if err := d.line(c.handle, p.queue); err != nil {
				return err
			}
		}
	}
	filters, err := link.Whole(func() ([]netlink.Filter, error) { return d.h.FilterList(d.link, rootHandle) })
	if err != nil {
		return fmt.Errorf("filters: %w", err)
	}
	for _, f := range p.filters {
		if i := slices.IndexFunc(filters, f.is); i >= 0 {
			filters = slices.Delete(filters, i, i+1)
			continue
		}
		switch err := d.h.FilterAdd(f.of(index)); {
		case errors.Is(err, unix.ENOENT):
			return fmt.Errorf("the kernel has no cls_u32: %w: %w", err, errors.ErrUnsupported)
		case err != nil:
			return fmt.Errorf("filter for class %s: %w", netlink.HandleStr(f.class), err)
		}
	}
	for _, f := range filters {
		if err := d.h.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("filter that is not planned: %w", err)
		}
	}
	for _, c := range classes {
		if !slices.ContainsFunc(p.classes, func(o class) bool { return o.handle == c.Attrs().Handle }) {
			if err := d.h.ClassDel(c); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("class %s, which is not planned: %w", netlink.HandleStr(c.Attrs().Handle), err)
			}
		}
	}
	return nil
}

// line is the queue of a leaf: fair among connections where the kernel has fq_codel, else one that is bounded by bytes.
func (d *device) line(class uint32, bytes int64) error {
	at := netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: queueOf(class), Parent: class}
	if i := slices.IndexFunc(d.all, func(q netlink.Qdisc) bool { return q.Attrs().Parent == class }); i >= 0 {
		switch q := d.all[i]; {
		case q.Attrs().Handle != at.Handle: // HTB's own, or somebody's
		case q.Type() == fair:
			return nil
		case q.Type() == plain:
			return setLimit(at, bytes)
		default:
			if err := d.h.QdiscDel(q); err != nil {
				return fmt.Errorf("queue of class %s: %w", netlink.HandleStr(class), err)
			}
		}
	}
	err := d.h.QdiscReplace(netlink.NewFqCodel(at))
	if errors.Is(err, unix.ENOENT) {
		err = setLimit(at, bytes)
	}
	if err != nil {
		return fmt.Errorf("queue of class %s: %w", netlink.HandleStr(class), err)
	}
	return nil
}

// The kinds of queues of leaves.
const (
	fair  = "fq_codel"
	plain = "bfifo"
)

// setLimit makes or changes a queue that holds so many bytes, which netlink's library has no words for.
func setLimit(at netlink.QdiscAttrs, bytes int64) error {
	r := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	r.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(at.LinkIndex), Handle: at.Handle, Parent: at.Parent})
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(plain)))
	limit := uint32(min(bytes, 1<<31)) // struct tc_fifo_qopt
	r.AddData(nl.NewRtAttr(nl.TCA_OPTIONS, binary.NativeEndian.AppendUint32(nil, limit)))
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// remove takes away what is ours; the kernel gives the device its own queueing discipline again.
func (d *device) remove() error {
	if ours, err := d.ours(); err != nil || !ours {
		return nil // it is somebody else's business
	}
	// With the handle, it is nobody else's that is gone.
	err := d.h.QdiscDel(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: d.link.Attrs().Index, Handle: rootHandle, Parent: netlink.HANDLE_ROOT}))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("take the queueing discipline away: %w", err)
	}
	return nil
}
