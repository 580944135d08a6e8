package gate

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
)

// Frames of packet sockets are of their owner's making and pass no program of a cgroup. A program on what leaves each
// interface of the container's network namespace drops those of cgroups with rules that restrict. It is on the
// interface (tcx, Linux 6.6), stays there as long as it, and lets everything pass of cgroups that no rule restricts.

const (
	familyPacket = 17
	sockFamily   = 4
	tcxPass      = -1 // TCX_NEXT
	tcxDrop      = 2
	cgroupDepth  = 12 // levels below the root at which a container's cgroup is looked for
)

// frames is the program for what leaves an interface.
func frames(m handles) asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		load(asm.R1, asm.R6, skbSock, asm.DWord), asm.JEq.Imm(asm.R1, 0, "pass"),
		asm.FnSkFullsock.Call(), asm.JEq.Imm(asm.R0, 0, "pass"),
		load(asm.R1, asm.R0, sockFamily, asm.Word), asm.JNE.Imm(asm.R1, familyPacket, "pass"),
	}
	for level := range int32(cgroupDepth) {
		code = append(code, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, level+1), asm.FnSkbAncestorCgroupId.Call(),
			asm.JEq.Imm(asm.R0, 0, "pass"), asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord))
		code = join(code, lookup(m.framed, -8), asm.Instructions{asm.JNE.Imm(asm.R0, 0, "drop")})
	}
	return join(code,
		label("pass", asm.Mov.Imm(asm.R0, tcxPass)), asm.Instructions{asm.Return()},
		label("drop", asm.Mov.Imm(asm.R0, tcxDrop)), asm.Instructions{asm.Return()})
}

// restrictFrames has packet sockets of the container send nothing, or send again. Where the kernel has no tcx it
// says so; the rest of the gate holds without.
func (g *Gate) restrictFrames(on bool) error {
	if !on {
		g.framesErr = nil
		return remove(g.gates.maps.framed, &g.id)
	}
	one := uint32(1)
	if err := g.gates.maps.framed.Put(&g.id, &one); err != nil {
		return fmt.Errorf("restrict packet sockets: %w", err)
	}
	g.framesErr = g.watchInterfaces()
	return nil
}

// watchInterfaces attaches the program to the interfaces of the container's network namespace that have none.
func (g *Gate) watchInterfaces() error {
	if g.pid == 0 {
		return errors.New("the container's network namespace is not known")
	}
	ns, err := enter.Process(g.pid)
	if err != nil {
		return fmt.Errorf("of the container: %w", err)
	}
	defer ns.Close()
	own, err := enter.Process(os.Getpid())
	if err != nil {
		return fmt.Errorf("of this process: %w", err)
	}
	defer own.Close()
	if own.ID() == ns.ID() {
		return nil // the node's: its interfaces are not the container's
	}
	return ns.Do(func() error {
		all, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("interfaces of the container: %w", err)
		}
		var errs []error
		for _, i := range all {
			if i.Index == loopback {
				continue
			}
			err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: i.Index, Program: g.gates.frames, Attach: ebpf.AttachTCXEgress})
			if err != nil && !errors.Is(err, unix.EEXIST) {
				errs = append(errs, fmt.Errorf("packet sockets on %s: %w", i.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}

// Frames says why packet sockets of the container are not restricted although its rules restrict it; nil: they are, or need not be.
func (g *Gate) Frames() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.framesErr
}
