package gate

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
)

// Try loads everything for itself alone and shuts a cgroup with it, a directory of the v2 hierarchy that nothing is in. It leaves
// nothing behind. The error says what this kernel lacks.
func Try(dir string) (err error) {
	tmp, err := os.MkdirTemp("", "forefend-gate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	g, err := Open(tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	gate, err := g.Open(dir, 0, func(Event) {})
	if err != nil {
		return err
	}
	err = errors.Join(gate.Set(Rules{Off: true, Feeds: FeedsBlock}), gate.Set(Rules{}), gate.detach(g.sockops, ebpf.AttachCGroupSockOps))
	if err != nil {
		return fmt.Errorf("shut a cgroup: %w", err)
	}
	return gate.Close()
}
