package gate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// fileidKernfs is the kind of file handle that names a cgroup by its number (include/linux/exportfs.h).
const fileidKernfs = 0xfe

// Sweep removes what is kept of cgroups that are gone: the sets of containers whose process was killed before Gate.Close. root is
// where the v2 hierarchy is mounted. It returns how many entries it removed.
func (g *Gates) Sweep(root string) (int, error) {
	mount, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("sweep the gates: open %s: %w", root, err)
	}
	defer unix.Close(mount)
	n := 0
	var errs []error
	known := make(map[uint64]bool) // of those looked for, whether they are gone
	drop := func(m *ebpf.Map, cgroup uint64, key any) {
		is, looked := known[cgroup]
		if !looked {
			is = gone(mount, cgroup)
			known[cgroup] = is
		}
		if !is {
			return
		}
		n++
		errs = append(errs, remove(m, key))
	}
	var set setKey
	var sets []setKey
	var verdict, fd uint32
	for all := g.maps.sets.Iterate(); all.Next(&set, &verdict); {
		sets = append(sets, set)
	}
	for _, k := range sets {
		drop(g.maps.sets, k.Cgroup, &k)
	}
	for _, m := range []*ebpf.Map{g.maps.peers, g.maps.rings, g.maps.framed} {
		var id uint64
		var ids []uint64
		for all := m.Iterate(); all.Next(&id, &fd); {
			ids = append(ids, id)
		}
		for _, id := range ids {
			drop(m, id, &id)
		}
	}
	return n, errors.Join(errs...)
}

// gone tells whether no cgroup has a number any more. What cannot be told is there.
func gone(mount int, cgroup uint64) bool {
	id := binary.NativeEndian.AppendUint64(nil, cgroup)
	fd, err := unix.OpenByHandleAt(mount, unix.NewFileHandle(fileidKernfs, id), unix.O_RDONLY|unix.O_CLOEXEC)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.ESTALE)
}
