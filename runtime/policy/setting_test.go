package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestParseSetting(t *testing.T) {
	o := Origin{Author: Operator, Source: "forefend set", Revision: 2}
	for setting, want := range map[string]Claim{
		"memory=64Mi":                   {Key: KeyMemory, Value: 64 << 20},
		"sealed=yes":                    {Key: KeySealed, Value: Tight},
		"syscalls.deny=ptrace":          {Key: "syscalls/ptrace", Value: SyscallDeny},
		"syscalls/ptrace=kill":          {Key: "syscalls/ptrace", Value: SyscallKill},
		"rlimits/nofile=100":            {Key: "rlimits/RLIMIT_NOFILE", Value: 100},
		"rlimits/RLIMIT_CORE=unlimited": {Key: "rlimits/RLIMIT_CORE", Value: Unlimited},
		"capabilities/net_raw=dropped":  {Key: "capabilities/CAP_NET_RAW", Value: Tight},
		"io.write/8:0=10Mi":             {Key: "io.write/8:0", Value: 10 << 20},
		"io.read=8:00=max":              {Key: "io.read/8:0", Value: Unlimited},
		"masked_paths//etc=masked":      {Key: "masked_paths//etc", Value: Tight},
	} {
		name, value, _ := strings.Cut(setting, "=")
		want.Origin = o
		got, err := ParseSetting(name, value, o)
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %+v, %v", setting, got, err)
		}
	}
	asked, err := ParseSetting("pids", "5", Origin{Author: Request})
	if err != nil || !asked[0].Amends {
		t.Errorf("what a container asks for does not amend: %+v, %v", asked, err)
	}
	for _, setting := range []string{"memory=x", "sealed=x", "user=root", "notify=on", "data=public", "syscalls/=deny", "syscalls/a b=deny", "rlimits/-=1", "rlimits/x=y", "io.read/sda=1Mi", "io.read/8:0=1", "bogus=1", "bogus/x=1"} {
		name, value, _ := strings.Cut(setting, "=")
		if claims, err := ParseSetting(name, value, o); err == nil {
			t.Errorf("%s: %+v", setting, claims)
		}
	}
}

func TestSetting(t *testing.T) {
	claims := []Claim{
		{Key: KeyMemory, Value: 5}, {Key: "syscalls/a", Value: SyscallKill}, {Key: "syscalls/b", Value: SyscallDeny}, {Key: "syscalls/c", Value: SyscallWatch},
		{Key: "syscalls/d", Value: SyscallNative}, {Key: "capabilities/CAP_XX", Value: Loose}, {Key: "capabilities/CAP_YY", Value: Tight},
		{Key: "devices/c:1:3", Value: DeviceNone}, {Key: "devices/c:1:5", Value: DeviceNone + 1},
		{Key: "io.read/8:0", Value: 5}, {Key: "io.write/8:0", Value: Unlimited}, {Key: "io.write/8:16", Value: 5},
		{Key: "masked_paths//a", Value: Tight}, {Key: "masked_paths//b", Value: Loose},
	}
	for name, want := range map[string]string{
		"memory": "memory", "syscalls.deny": "syscalls/a syscalls/b", "syscalls.allow": "syscalls/c syscalls/d", "syscalls/c": "syscalls/c",
		"syscalls": "syscalls/a syscalls/b syscalls/c syscalls/d", "capabilities.add": "capabilities/CAP_XX", "capabilities.drop": "capabilities/CAP_YY",
		"capabilities/yy": "capabilities/CAP_YY", "pids": "",
		"devices.deny": "devices/c:1:3", "devices.allow": "devices/c:1:5", "devices": "devices/c:1:3 devices/c:1:5",
		"io.read": "io.read/8:0", "io.write": "io.write/8:0 io.write/8:16", "io.write/8:016": "io.write/8:16",
		"masked_paths": "masked_paths//a masked_paths//b", "masked_paths//b": "masked_paths//b",
	} {
		is, err := Setting(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range claims {
			if is(c) {
				got = append(got, string(c.Key))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"bogus", "syscalls/a b", "bogus/a"} {
		if _, err := Setting(name); err == nil {
			t.Errorf("%s is known", name)
		}
	}
	if names := SettingNames(); !slices.Contains(names, "sealed") || slices.Contains(names, "user") || slices.Contains(names, "data") || !slices.IsSorted(names) {
		t.Errorf("%q", names)
	}
}

// What was seen of the running container replaces what was predicted of it, tighter or not, and gives way to it again.
func TestSeenReplacesPredicted(t *testing.T) {
	first := Claim{Key: KeyMemory, Value: 64, Origin: Origin{Author: Prediction, Source: "history"}}
	raised := Claim{Key: KeyMemory, Value: 128, Origin: Origin{Author: Prediction, Source: "airbag", Revision: 2}}
	e := Merge(Input{Claims: []Claim{first, raised}})
	if v := e.Value(KeyMemory, 0); v != 128 {
		t.Errorf("memory %d", v)
	}
	back := slices.DeleteFunc(e.ClaimsBy(Prediction), func(c Claim) bool { return c.Revision > 0 })
	if v := Merge(Input{Claims: back}).Value(KeyMemory, 0); v != 64 {
		t.Errorf("memory %d afterwards", v)
	}
}

// A container may ask for less than its annotations, and for more only under a grant.
func TestAsksAmendAnnotations(t *testing.T) {
	spec := Claim{Key: KeyMemory, Value: 256, Origin: Origin{Author: Request, Source: "spec"}}
	annotation := Claim{Key: KeyMemory, Value: 64, Amends: true, Origin: Origin{Author: Request, Source: "annotation forefend.dev/memory"}}
	for _, c := range []struct {
		asks, want Value
		grants     []Key
	}{{32, 32, nil}, {128, 64, nil}, {128, 128, []Key{KeyMemory}}} {
		ask := Claim{Key: KeyMemory, Value: c.asks, Amends: true, Origin: Origin{Author: Request, Source: "application", Revision: 3}}
		e := Merge(Input{Claims: []Claim{ask, annotation, spec}, Grants: c.grants, Profile: "p"})
		if v := e.Value(KeyMemory, 0); v != c.want {
			t.Errorf("asking for %d with grants %v: %d", c.asks, c.grants, v)
		}
		if got := e.ClaimsBy(Request); !slices.Contains(got, ask) {
			t.Errorf("what was asked is lost: %+v", got)
		}
	}
}

func TestReplaceOnly(t *testing.T) {
	merge := func(claims ...Claim) Effective { return Merge(Input{Claims: claims}) }
	c := func(k Key, v Value) Claim { return Claim{Key: k, Value: v, Origin: Origin{Author: Operator}} }
	before := merge(c(KeyMemory, 64), c(KeyPIDs, 5), c("syscalls/a", SyscallWatch), c("syscalls/b", SyscallWatch))
	before.Fields = append(before.Fields, Field{Key: "of a newer release"})
	newer := merge(c(KeyMemory, 128), c(KeyPIDs, 7), c(KeyCPUs, 9), c("syscalls/a", SyscallDeny), c("syscalls/b", SyscallDeny), c("syscalls/z", SyscallDeny))
	got := before.ReplaceOnly(map[Key]bool{KeyMemory: true, "syscalls/b": true}, newer)
	want := merge(c(KeyMemory, 128), c(KeyPIDs, 5), c("syscalls/a", SyscallWatch), c("syscalls/b", SyscallDeny))
	want.Fields = append(want.Fields, Field{Key: "of a newer release"})
	newer.Fields = append(newer.Fields, Field{Key: "of another"})
	if d := want.Diff(got, func(Key) bool { return true }); len(d) > 0 {
		t.Errorf("%q", d)
	}
	if same := before.ReplaceOnly(nil, newer); len(before.Diff(same, func(Key) bool { return true })) > 0 {
		t.Errorf("%+v", same)
	}
}
