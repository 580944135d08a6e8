package policy

import (
	"reflect"
	"testing"
)

func TestPutReplacesOneByOne(t *testing.T) {
	call := func(v Value, reason string, names ...string) Field {
		return Field{Key: KeySyscalls, Names: names, Value: v, Origin: Origin{Author: Default, Source: "forefend", Reason: reason}}
	}
	claim := func(k Key, v Value, reason string) Claim {
		return Claim{Key: k, Value: v, Origin: Origin{Author: Default, Source: "forefend", Reason: reason}}
	}
	before := Merge(Input{Claims: []Claim{
		claim(KeyPIDs, 5, ""), claim(KeyMemory, 1<<20, ""), claim(KeySyscalls.Member("bpf"), SyscallDeny, "dangerous"), claim(KeySyscalls.Member("acct"), SyscallDeny, "dangerous"),
		claim(KeySyscalls.Member("read"), SyscallNative, "hot"), claim(KeySyscalls.Member("chmod"), SyscallWatch, "benign"),
	}})
	if got := before.Put(); !reflect.DeepEqual(got, before) {
		t.Errorf("nothing put: %+v", got)
	}
	got := before.Put(call(SyscallNative, "hot", "chmod"), call(SyscallWatch, "asked for", "bpf"), Field{Key: KeyPIDs, Value: 6, Origin: Origin{Author: Operator}})
	want := Merge(Input{Claims: []Claim{
		claim(KeyMemory, 1<<20, ""), {Key: KeyPIDs, Value: 6, Origin: Origin{Author: Operator}},
		claim(KeySyscalls.Member("acct"), SyscallDeny, "dangerous"), claim(KeySyscalls.Member("bpf"), SyscallWatch, "asked for"),
		claim(KeySyscalls.Member("read"), SyscallNative, "hot"), claim(KeySyscalls.Member("chmod"), SyscallNative, "hot"),
	}})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if f, _ := before.Lookup(KeySyscalls.Member("bpf")); f.Value != SyscallDeny || len(f.Names) != 2 {
		t.Errorf("the policy of before has changed: %+v", f)
	}
}
