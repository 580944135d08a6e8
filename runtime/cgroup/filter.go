package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
)

// filter is the device programs of a group in the v2 hierarchy.
type filter struct {
	own      ebpf.ProgramID // 0: none
	replaced bool           // the programs that were there before are gone
}

// set attaches the program that makes after of what there is, and detaches those that it is for. In between all of
// them hold: a device is rather closed for a moment too long than open.
func (f *filter) set(dir string, created, after Access) (err error) {
	group, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer group.Close()
	target := int(group.Fd())
	there, err := attached(target)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(there), func(id ebpf.ProgramID) bool { return id == f.own })
	tight := restrictions(created, after)
	replace := f.replaced || opens(created, after)
	var insns asm.Instructions
	switch {
	case replace && !f.replaced && len(others) > 1:
		return fmt.Errorf("%d programs decide about devices (systemd's among them?): nothing can be opened past them: %w", len(others), errdefs.ErrFailedPrecondition)
	case replace:
		insns, err = program(after, false)
	case len(tight) > 0:
		insns, err = program(tight, true)
	}
	if err != nil {
		return err
	}
	var id ebpf.ProgramID
	if insns != nil {
		if id, err = attach(target, insns); err != nil {
			return err
		}
	}
	gone := []ebpf.ProgramID{f.own}
	if replace && !f.replaced {
		gone = append(gone, others...)
	}
	gone = slices.DeleteFunc(gone, func(id ebpf.ProgramID) bool { return id == 0 || !slices.Contains(there, id) })
	for i, old := range gone {
		if err := detach(target, old); err != nil {
			if i > 0 { // what has gone is as good as replaced
				f.replaced = f.replaced || replace
			}
			return errors.Join(err, detachOwn(target, id))
		}
	}
	f.own, f.replaced = id, replace
	now, err := attached(target)
	if err != nil {
		return err
	}
	if id != 0 && !slices.Contains(now, id) {
		return errors.New("the device program is not attached: somebody else changes the programs of this group")
	}
	return nil
}

func detachOwn(target int, id ebpf.ProgramID) error {
	if id == 0 {
		return nil
	}
	return detach(target, id)
}

// opens reports whether after has something that created has not.
func opens(created, after Access) bool {
	for name, letters := range after {
		if without(letters, created[name]) != "" {
			return true
		}
	}
	return false
}

// restrictions are the entries of after that have less than those of created, and the narrower ones, about which those do not
// decide.
func restrictions(created, after Access) Access {
	out := make(Access)
	for name, letters := range created {
		if without(letters, after[name]) != "" {
			out[name] = after[name]
		}
	}
	for name, letters := range after {
		for wide := range out {
			if covers(wide, name) {
				out[name] = letters
				break
			}
		}
	}
	return out
}

// covers reports whether every device that the member b names is named by a.
func covers(a, b string) bool {
	x, y := strings.Split(a, ":"), strings.Split(b, ":")
	return len(x) == 3 && len(y) == 3 && x[0] == y[0] && (x[1] == "*" || x[1] == y[1]) && (x[2] == "*" || x[2] == y[2])
}

func attached(target int) ([]ebpf.ProgramID, error) {
	r, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return nil, fmt.Errorf("device programs of the group: %w", err)
	}
	var out []ebpf.ProgramID
	for _, p := range r.Programs {
		out = append(out, p.ID)
	}
	return out, nil
}

// multi lets a group have several programs (BPF_F_ALLOW_MULTI).
const multi = 1 << 1

func attach(target int, insns asm.Instructions) (ebpf.ProgramID, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "forefend_device", Type: ebpf.CGroupDevice, Instructions: insns, License: "Apache-2.0"})
	if err != nil {
		return 0, fmt.Errorf("load the device program: %w", err)
	}
	defer p.Close() // the group keeps it
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("device program: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("device program: the kernel gives it no number")
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: target, Program: p, Attach: ebpf.AttachCGroupDevice, Flags: multi}); err != nil {
		return 0, fmt.Errorf("attach the device program: %w", err)
	}
	return id, nil
}

func detach(target int, id ebpf.ProgramID) error {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Errorf("device program %d: %w", id, err)
	}
	defer p.Close()
	if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: p, Attach: ebpf.AttachCGroupDevice}); err != nil {
		return fmt.Errorf("detach device program %d: %w", id, err)
	}
	return nil
}

// What a device program sees (struct bpf_cgroup_dev_ctx) and answers.
const (
	offAccess, offMajor, offMinor = 0, 4, 8

	typeBlock, typeChar                  = 1, 2
	accessMknod, accessRead, accessWrite = 1, 2, 4
)

// program compiles entries. The narrowest that matches decides about reading and writing; mknod is allowed by any. What none
// matches is allowed or not by otherwise.
func program(a Access, otherwise bool) (asm.Instructions, error) {
	devices, err := a.devices()
	if err != nil {
		return nil, err
	}
	verdict := int32(0)
	if otherwise {
		verdict = 1
	}
	insns := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, offAccess, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R2),
		asm.And.Imm(asm.R2, 0xffff), // the type
		asm.RSh.Imm(asm.R3, 16),     // what is asked for
		asm.LoadMem(asm.R4, asm.R1, offMajor, asm.Word),
		asm.LoadMem(asm.R5, asm.R1, offMinor, asm.Word),
	}
	for i, d := range devices {
		next := fmt.Sprintf("after%d", i)
		deny := fmt.Sprintf("denied%d", i)
		kind := int32(typeChar)
		if d.kind == 'b' {
			kind = typeBlock
		}
		block := asm.Instructions{asm.JNE.Imm(asm.R2, kind, next)}
		if d.major != anyNumber {
			block = append(block, asm.JNE.Imm(asm.R4, int32(d.major), next))
		}
		if d.minor != anyNumber {
			block = append(block, asm.JNE.Imm(asm.R5, int32(d.minor), next))
		}
		block = append(block,
			asm.Mov.Reg(asm.R6, asm.R3),
			asm.And.Imm(asm.R6, ^bits(d.access)&7),
			asm.JNE.Imm(asm.R6, 0, deny),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
			// Not all that is asked for is in the entry. Of mknod a wider one may know.
			asm.And.Imm(asm.R6, accessRead|accessWrite).WithSymbol(deny),
			asm.JEq.Imm(asm.R6, 0, next),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		)
		if i > 0 {
			block[0] = block[0].WithSymbol(fmt.Sprintf("after%d", i-1))
		}
		insns = append(insns, block...)
	}
	last := asm.Mov.Imm(asm.R0, verdict)
	if len(devices) > 0 {
		last = last.WithSymbol(fmt.Sprintf("after%d", len(devices)-1))
	}
	return append(insns, last, asm.Return()), nil
}

func bits(letters string) (n int32) {
	for _, l := range letters {
		n |= map[rune]int32{'r': accessRead, 'w': accessWrite, 'm': accessMknod}[l]
	}
	return n
}
