package seccomp

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNotWatched is returned by Table.SetVerdict for a call that the kernel
// decides without asking, so that no table can change what happens to it.
var ErrNotWatched = errors.New("the system call is not watched")

// ErrNotRequested is returned by Table.SetVerdict when the verdict would allow
// what the requested profile does not.
var ErrNotRequested = errors.New("the requested seccomp profile does not allow the system call")

// Table answers every notification that the profile compiled with it can cause:
// by architecture, number and scalar arguments. The zero Table denies everything.
type Table struct {
	native, foreign []entry // indexed by number
}

// outcome says where a clause leads.
type outcome uint8

const (
	followVerdict outcome = iota // the entry's verdict decides
	alwaysPass                   // passes whatever the verdict (a thread among clones)
	alwaysDeny                   // outside the requested profile: errno, never looser
	alwaysKill                   // the requested profile kills here
	outcomeLast   = alwaysKill
)

// Entry flags; part of the table's format.
const (
	flagPresent uint8 = 1 << iota
	flagFixed         // the requested profile denies the call: never looser than Deny
	flagUnshare       // makes namespaces: never looser than unshare's verdict
	flagKin           // a denial does not hold among the caller's own processes
	flagOwn           // a denial holds for the container's own processes only, not for executed ones
	flagLast    = flagOwn
)

// entry is what the table knows of one call.
type entry struct {
	verdict   Verdict // what was set for the call
	effective Verdict // verdict, bounded by unshare's where flagUnshare is set
	flags     uint8
	otherwise outcome // when no clause matches; unused without clauses
	errno     uint16  // for Deny
	outside   uint16  // for alwaysDeny
	clauses   []clause
}

// clause: where all conditions hold, outcome is the answer. The first one counts.
type clause struct {
	outcome    outcome
	conditions []condition
}

// Decision is the answer to one call. Verdict is Watch (it passes), Deny or Kill.
type Decision struct {
	Verdict Verdict
	Errno   int32 // for Deny, positive
	// Kin says that a denial holds only where the call reaches for others than the
	// caller's own processes.
	Kin bool
	// Own says that a denial does not hold for what a client executes in the container.
	Own bool
}

// Decide answers the call with number nr of the audit architecture arch. A call
// that the table does not know is denied: the profile compiled with the table
// never asks about one. It does not allocate.
func (t *Table) Decide(nr int32, arch uint32, args *[6]uint64) Decision {
	e := t.entry(nr, arch)
	if e == nil {
		return Decision{Verdict: Deny, Errno: int32(unix.EPERM)}
	}
	o := followVerdict
	if len(e.clauses) > 0 {
		o = e.outcome(args, arch)
	}
	switch {
	case o == alwaysPass:
		return Decision{Verdict: Watch}
	case o == alwaysDeny:
		return Decision{Verdict: Deny, Errno: int32(e.outside)}
	case o == alwaysKill || e.effective == Kill:
		return Decision{Verdict: Kill, Errno: int32(e.errno)}
	case e.effective == Deny && e.flags&flagFixed != 0:
		return Decision{Verdict: Deny, Errno: int32(e.outside)}
	case e.effective == Deny:
		return Decision{Verdict: Deny, Errno: int32(e.errno), Kin: e.flags&flagKin != 0, Own: e.flags&flagOwn != 0}
	}
	return Decision{Verdict: Watch}
}

func (e *entry) outcome(args *[6]uint64, arch uint32) outcome {
	// Bit 31 of an audit architecture marks 64-bit ones (__AUDIT_ARCH_64BIT).
	width32 := arch&0x80000000 == 0
	for i := range e.clauses {
		if e.clauses[i].holds(args, width32) {
			return e.clauses[i].outcome
		}
	}
	return e.otherwise
}

func (c *clause) holds(args *[6]uint64, width32 bool) bool {
	for _, k := range c.conditions {
		if !k.holds(args, width32) {
			return false
		}
	}
	return true
}

func (t *Table) entry(nr int32, arch uint32) *entry {
	entries := t.native
	if arch != nativeAuditArch {
		if arch != foreignAuditArch {
			return nil
		}
		entries = t.foreign
	}
	if nr < 0 || int(nr) >= len(entries) || entries[nr].flags&flagPresent == 0 {
		return nil
	}
	return &entries[nr]
}

// entries yields the entries of the named call, one per architecture.
func (t *Table) named(name string) []*entry {
	var found []*entry
	if nr, ok := nativeNumbering().byName[name]; ok {
		if e := t.entry(int32(nr), nativeAuditArch); e != nil {
			found = append(found, e)
		}
	}
	if nr, ok := foreignNumbering().byName[name]; ok {
		if e := t.entry(int32(nr), foreignAuditArch); e != nil {
			found = append(found, e)
		}
	}
	return found
}

// Verdict returns what the table answers for the named call where the requested
// profile leaves it a choice, and whether the call is watched at all.
func (t *Table) Verdict(name string) (Verdict, bool) {
	found := t.named(name)
	if len(found) == 0 {
		return 0, false
	}
	return found[0].effective, true
}

// Verdicts returns the answer for every call the table knows, by name.
func (t *Table) Verdicts() map[string]Verdict {
	out := make(map[string]Verdict)
	for _, part := range []struct {
		entries []entry
		numbers numbering
	}{{t.foreign, foreignNumbering()}, {t.native, nativeNumbering()}} {
		for nr, e := range part.entries {
			if name, ok := part.numbers.name(nr); ok && e.flags&flagPresent != 0 {
				out[name] = e.effective
			}
		}
	}
	return out
}

// Clone returns a copy whose verdicts change independently of t's.
func (t *Table) Clone() *Table {
	// Clauses never change after Compile, so both may share them.
	return &Table{native: slices.Clone(t.native), foreign: slices.Clone(t.foreign)}
}

// Exception says for whom a verdict Deny does not hold.
type Exception uint8

const (
	NoException    Exception = iota
	ExceptKin                // not among the caller's own processes (Request.Kin); nobody where AmongKin is false
	ExceptExecuted           // not for what a client executes in the container (Request.Own)
)

func (x Exception) flags(name string) uint8 {
	switch {
	case x == ExceptKin && AmongKin(name):
		return flagKin
	case x == ExceptExecuted:
		return flagOwn
	}
	return 0
}

// SetVerdict changes the answer for the named call; x holds for the verdict Deny. Native means Watch here: the
// kernel's filter cannot be changed any more. Unshare's verdict also bounds
// clone with namespace flags, and clone3. It returns ErrNotWatched, also for a denial of clone where the kernel passes
// those that make threads and processes, or ErrNotRequested, and then changes nothing.
func (t *Table) SetVerdict(name string, v Verdict, x Exception) error {
	found := t.named(name)
	if len(found) == 0 {
		return fmt.Errorf("set the verdict of %s: %w", name, ErrNotWatched)
	}
	v = min(v, Watch)
	for _, e := range found {
		if v < Watch && slices.ContainsFunc(e.clauses, func(c clause) bool { return c.outcome == alwaysPass }) {
			return fmt.Errorf("set the verdict of every %s: %w", name, ErrNotWatched)
		}
		if e.flags&flagFixed != 0 && v > Deny {
			return fmt.Errorf("set the verdict of %s to %s: %w", name, v, ErrNotRequested)
		}
	}
	for _, e := range found {
		e.verdict, e.flags = v, e.flags&^(flagKin|flagOwn)
		if v == Deny && e.flags&flagFixed == 0 {
			e.flags |= x.flags(name)
		}
	}
	t.bound()
	return nil
}

// bound recomputes the effective verdicts, which tie the calls that make
// namespaces to unshare: denying one way in is useless with the others open.
func (t *Table) bound() {
	boundary := Watch
	for _, e := range t.named("unshare") {
		boundary = min(boundary, e.verdict)
	}
	for _, entries := range [][]entry{t.native, t.foreign} {
		for i := range entries {
			e := &entries[i]
			e.effective = e.verdict
			if e.flags&flagUnshare != 0 {
				e.effective = min(e.verdict, boundary)
			}
		}
	}
}

// Equal reports whether both tables answer every call alike.
func (t *Table) Equal(other *Table) bool {
	same := func(a, b entry) bool {
		return a.verdict == b.verdict && a.flags == b.flags && a.otherwise == b.otherwise && a.errno == b.errno && a.outside == b.outside &&
			slices.EqualFunc(a.clauses, b.clauses, func(x, y clause) bool {
				return x.outcome == y.outcome && slices.Equal(x.conditions, y.conditions)
			})
	}
	return slices.EqualFunc(t.native, other.native, same) && slices.EqualFunc(t.foreign, other.foreign, same) &&
		maps.Equal(t.Verdicts(), other.Verdicts())
}
