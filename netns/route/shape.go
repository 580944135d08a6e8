package route

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a shaped device holds, as time at its rate: how much may pass at once after a pause, and how much waits before more is dropped.
const (
	burstPart = 20 // a twentieth of a second, which a busy node may have a tunnel wait for a processor: beside ten seconds, in which the rate is to hold, nothing
	queuePart = 20 // a twentieth
)

// How many packets a burst and a queue hold at least: a packet has to fit, and a queue of a few starves many connections.
const (
	leastBurst = 4
	leastQueue = 32
)

// shape has what goes into a device limited to a rate, in bytes a second: a token bucket (tc-tbf), under which flows take turns where the
// kernel has that (tc-fq_codel).
func shape(h *netlink.Handle, link netlink.Link, rate int64, mtu int) error {
	if rate == 0 {
		return nil
	}
	burst := max(rate/burstPart, int64(leastBurst*mtu))
	// What TCP hands over as one has to fit as well: else it is cut up and overruns the queue.
	if err := h.LinkSetGSOMaxSize(link, int(min(burst, 65535))); err != nil {
		return fmt.Errorf("size of what is handed over: %w", err)
	}
	bucket := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       uint64(rate), Buffer: netlink.Xmittime(uint64(rate), uint32(burst)), Limit: uint32(burst + max(rate/queuePart, int64(leastQueue*mtu))),
	}
	if err := h.QdiscReplace(bucket); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("a tunnel's rate needs the kernel's sch_tbf: %w: %w", err, errors.ErrUnsupported)
		}
		return fmt.Errorf("limit to %d bytes a second: %w", rate, err)
	}
	turns := netlink.NewFqCodel(netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(2, 0), Parent: netlink.MakeHandle(1, 1)})
	if err := h.QdiscReplace(turns); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("have flows take turns: %w", err)
	}
	return nil
}
