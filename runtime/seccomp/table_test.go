package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func number(t testing.TB, name string) int32 {
	t.Helper()
	nr, ok := Number(name)
	if !ok {
		t.Fatalf("%s has no number", name)
	}
	return int32(nr)
}

func defaultTable(t testing.TB) *Table {
	_, table := compiled(t, Request{Requested: DefaultProfile(nil), Verdicts: hotNative(), Fallback: Watch, ForeignArch: true})
	return table
}

func TestDecide(t *testing.T) {
	table := defaultTable(t)
	eperm := Decision{Verdict: Deny, Errno: int32(unix.EPERM)}
	pass := Decision{Verdict: Watch}
	for what, c := range map[string]struct {
		name string
		arch uint32
		arg0 uint64
		want Decision
	}{
		"watched":                       {"mkdir", nativeAuditArch, 0, pass},
		"dangerous":                     {"mount", nativeAuditArch, 0, eperm},
		"thread":                        {"clone", nativeAuditArch, unix.CLONE_THREAD, pass},
		"namespace":                     {"clone", nativeAuditArch, unix.CLONE_NEWUSER, eperm},
		"family":                        {"socket", nativeAuditArch, unix.AF_INET, pass},
		"family outside the profile":    {"socket", nativeAuditArch, unix.AF_ALG, eperm},
		"native, so nobody asks":        {"read", nativeAuditArch, 0, eperm},
		"an architecture nobody has":    {"mkdir", 0xdead, 0, eperm},
		"personality with all bits set": {"personality", nativeAuditArch, 0xffffffff, pass},
		"the same in 64 bits":           {"personality", nativeAuditArch, ^uint64(0), eperm},
	} {
		if got := table.Decide(number(t, c.name), c.arch, &[maxArgs]uint64{c.arg0}); got != c.want {
			t.Errorf("%s: %+v, want %+v", what, got, c.want)
		}
	}
	var args [maxArgs]uint64
	for _, nr := range []int32{-1, 1 << 30} {
		if got := table.Decide(nr, nativeAuditArch, &args); got != eperm {
			t.Errorf("call %d: %+v", nr, got)
		}
	}
	foreign := int32(foreignNumbering().byName["personality"])
	// The filter compares 32 bits of a 32-bit program's arguments, and so must the table.
	if got := table.Decide(foreign, foreignAuditArch, &[maxArgs]uint64{0xffffffff}); got != pass {
		t.Errorf("32-bit personality: %+v", got)
	}
	if got := (&Table{}).Decide(0, nativeAuditArch, &args); got != eperm {
		t.Errorf("the zero table: %+v", got)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	table, nr := defaultTable(t), number(t, "socket")
	args := [maxArgs]uint64{unix.AF_XDP}
	if n := testing.AllocsPerRun(100, func() { table.Decide(nr, nativeAuditArch, &args) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	table, nr := defaultTable(b), number(b, "socket")
	args := [maxArgs]uint64{unix.AF_XDP}
	for b.Loop() {
		table.Decide(nr, nativeAuditArch, &args)
	}
}

func TestSetVerdictOnACloneOnly(t *testing.T) {
	table := defaultTable(t)
	changed := table.Clone()
	must(t, changed.SetVerdict("mkdir", Deny, NoException))
	if v, _ := table.Verdict("mkdir"); v != Watch {
		t.Errorf("the original changed to %s", v)
	}
	if v, _ := changed.Verdict("mkdir"); v != Deny {
		t.Errorf("the clone has %s", v)
	}
	must(t, changed.SetVerdict("mkdir", Native, NoException)) // cannot become native, so: watched
	if !changed.Equal(table) {
		t.Error("back and forth is not the same")
	}
	must(t, changed.SetVerdict("mkdir", Kill, NoException))
	if got := changed.Decide(number(t, "mkdir"), nativeAuditArch, new([maxArgs]uint64)); got.Verdict != Kill {
		t.Errorf("%+v", got)
	}
	must(t, changed.SetVerdict("mount", Kill, NoException)) // tighter is always possible
	if err := changed.SetVerdict("mount", Watch, NoException); !errors.Is(err, ErrNotRequested) {
		t.Error(err)
	}
	if err := changed.SetVerdict("no_such_call", Watch, NoException); !errors.Is(err, ErrNotWatched) {
		t.Error(err)
	}
	if _, ok := changed.Verdict("read"); ok {
		t.Error("read is native")
	}
	if vs := changed.Verdicts(); vs["mount"] != Kill || vs["chdir"] != Watch {
		t.Errorf("%v", vs)
	}
}

func TestTableBinaryRoundTrip(t *testing.T) {
	table := defaultTable(t)
	must(t, table.SetVerdict("unshare", Kill, NoException))
	raw, err := table.MarshalBinary()
	must(t, err)
	t.Logf("%d bytes", len(raw))
	// Tables travel inside JSON as well.
	asJSON, err := json.Marshal(raw)
	must(t, err)
	must(t, json.Unmarshal(asJSON, &raw))
	var back Table
	must(t, back.UnmarshalBinary(raw))
	if !back.Equal(table) {
		t.Error("the table came back different")
	}
	again, err := back.MarshalBinary()
	must(t, err)
	if !bytes.Equal(raw, again) {
		t.Error("two spellings of one table")
	}
}

// Version 1 must stay readable: sealed policies keep tables on disk.
func TestTableVersion1Golden(t *testing.T) {
	path := filepath.Join("testdata", "table-v1.bin")
	table := &Table{}
	table.native = place(table.native, 161, entry{verdict: Deny, flags: flagPresent, errno: 1, outside: 38})
	table.native = place(table.native, 56, entry{verdict: Watch, flags: flagPresent | flagUnshare, otherwise: followVerdict, errno: 1, outside: 1,
		clauses: []clause{{outcome: alwaysPass, conditions: []condition{{op: opMaskedEqual, value: namespaceFlags}}}}})
	table.foreign = place(table.foreign, 61, entry{verdict: Deny, flags: flagPresent | flagFixed, errno: 1, outside: 1})
	table.bound()
	raw, err := table.MarshalBinary()
	must(t, err)
	if *update {
		must(t, os.WriteFile(path, raw, 0o644))
	}
	old, err := os.ReadFile(path)
	must(t, err)
	var back Table
	must(t, back.UnmarshalBinary(old))
	if !back.Equal(table) || !bytes.Equal(raw, old) {
		t.Error("version 1 is read or written differently than it was")
	}
}

func TestUnmarshalBinaryRefuses(t *testing.T) {
	table := defaultTable(t)
	raw, err := table.MarshalBinary()
	must(t, err)
	changed := func(at int, b byte) []byte { c := bytes.Clone(raw); c[at] = b; return c }
	for what, data := range map[string][]byte{
		"nothing": nil, "other magic": changed(0, 'x'), "version 2": changed(4, 2), "one byte more": append(bytes.Clone(raw), 0),
		"one byte less": raw[:len(raw)-1], "too many entries": changed(6, 0xff), "native verdict": changed(9, byte(Native)),
		"unknown flags": changed(10, 0xff), "unknown outcome": changed(11, 9), "too large": make([]byte, maxTableBytes+1),
	} {
		kept := defaultTable(t)
		if err := kept.UnmarshalBinary(data); !errors.Is(err, ErrBadTable) {
			t.Errorf("%s: %v", what, err)
		}
		if !kept.Equal(table) {
			t.Errorf("%s: the table changed", what)
		}
	}
	forged := &Table{}
	forged.native = place(nil, 165, entry{verdict: Watch, flags: flagPresent | flagFixed, errno: 1, outside: 1})
	raw, err = forged.MarshalBinary()
	must(t, err)
	if err := new(Table).UnmarshalBinary(raw); !errors.Is(err, ErrBadTable) {
		t.Errorf("a fixed call was allowed: %v", err)
	}
	forged.native = place(nil, 165, entry{verdict: Deny, flags: flagPresent, errno: 0, outside: 1})
	raw, err = forged.MarshalBinary()
	must(t, err)
	if err := new(Table).UnmarshalBinary(raw); !errors.Is(err, ErrBadTable) {
		t.Errorf("a denial without errno: %v", err)
	}
}

func FuzzTableUnmarshalBinary(f *testing.F) {
	raw, err := defaultTable(f).MarshalBinary()
	must(f, err)
	f.Add(raw)
	small, err := os.ReadFile(filepath.Join("testdata", "table-v1.bin"))
	must(f, err)
	f.Add(small)
	f.Add([]byte(tableMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		var table Table
		if table.UnmarshalBinary(data) != nil {
			return
		}
		again, err := table.MarshalBinary()
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("read %x, wrote %x (%v)", data, again, err)
		}
		for nr := range int32(max(len(table.native), len(table.foreign)) + 2) {
			for _, arch := range []uint32{nativeAuditArch, foreignAuditArch} {
				if d := table.Decide(nr, arch, &[maxArgs]uint64{uint64(nr)}); d.Verdict == Native || d.Verdict == Deny && d.Errno == 0 {
					t.Errorf("call %d: %+v", nr, d)
				}
			}
		}
	})
}

// What a live change makes of a call is what compiling it that way would have made of it, for whomever asks.
func TestSetVerdictIsWhatCompileWouldMake(t *testing.T) {
	requested := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"ptrace", "keyctl", "chmod", "mkdir", "unshare", "clone", "write", "execve"}, Action: specs.ActAllow},
	}}
	_, live := compiled(t, Request{Requested: requested, Fallback: Watch})
	must(t, live.SetVerdict("ptrace", Deny, ExceptKin))
	must(t, live.SetVerdict("keyctl", Deny, ExceptKin)) // no call among kin: nobody is excepted
	must(t, live.SetVerdict("chmod", Deny, ExceptExecuted))
	must(t, live.SetVerdict("mkdir", Watch, ExceptExecuted)) // no denial, no exception
	_, fresh := compiled(t, Request{
		Requested: requested, Fallback: Watch, Verdicts: map[string]Verdict{"ptrace": Deny, "keyctl": Deny, "chmod": Deny},
		Kin: []string{"ptrace", "keyctl"}, Own: []string{"chmod", "mkdir"},
	})
	if !live.Equal(fresh) {
		t.Errorf("live %+v\nfresh %+v", live.Verdicts(), fresh.Verdicts())
	}
	if err := live.SetVerdict("clone", Deny, NoException); !errors.Is(err, ErrNotWatched) {
		t.Errorf("threads pass in the kernel, yet: %v", err)
	}
	must(t, live.SetVerdict("clone", Watch, NoException))
}

// Nobody asked for Forefend's own default: what it denies may be allowed later, what was asked for may not.
func TestOursMayBeOpened(t *testing.T) {
	for ours, want := range map[bool]error{true: nil, false: ErrNotRequested} {
		_, table := compiled(t, Request{Requested: DefaultProfile(nil), Ours: ours, Fallback: Watch})
		if v, _ := table.Verdict("mount"); v != Deny {
			t.Errorf("mount: %s", v)
		}
		if err := table.SetVerdict("mount", Watch, NoException); !errors.Is(err, want) {
			t.Errorf("ours %t: %v", ours, err)
		}
	}
}
