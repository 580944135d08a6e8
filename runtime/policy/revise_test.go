package policy

import (
	"slices"
	"testing"
)

func TestDiffNamesWhatHasAnotherValue(t *testing.T) {
	merge := func(claims ...Claim) Effective { return Merge(Input{Claims: claims}) }
	claim := func(k Key, v Value) Claim { return Claim{Key: k, Value: v, Origin: Origin{Author: Operator}} }
	before := merge(claim(KeyMemory, 64<<20), claim(KeyPIDs, 5), claim(KeySyscalls.Member("bpf"), SyscallWatch), claim(KeySyscalls.Member("read"), SyscallNative))
	after := merge(claim(KeyMemory, 128<<20), claim(KeyPIDs, 5), claim(KeySyscalls.Member("bpf"), SyscallDeny), claim(KeyCPUs, 1500))
	got := before.Diff(after, func(k Key) bool { return k != KeyMode })
	want := []string{"cpus undecided -> 1.5", "memory 64 MiB -> 128 MiB", "syscalls/bpf watch -> deny", "syscalls/read native -> undecided"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := before.Diff(after, func(k Key) bool { return k == KeyPIDs }); got != nil {
		t.Errorf("%q", got)
	}
	if got := before.Differing(after); !slices.Equal(got, []Dimension{Resources, Syscalls}) {
		t.Errorf("they differ in %v", got)
	}
	if got := before.Differing(before); got != nil {
		t.Errorf("it differs from itself in %v", got)
	}
	if got := before.ReplaceKeys(func(k Key) bool { return k == KeyMemory }, after).Value(KeyMemory, 0); got != 128<<20 {
		t.Errorf("memory %d", got)
	}
}
