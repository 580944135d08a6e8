package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseAnnotations(t *testing.T) {
	got, err := ParseAnnotations(map[string]string{
		"io.kubernetes.cri.container-type": "container",
		"forefend.dev/user":                "alice",
		"forefend.dev/group":               "web",
		"forefend.dev/memory":              "512Mi",
		"forefend.dev/memory.soft":         "400m",
		"forefend.dev/memory.swap":         "unlimited",
		"forefend.dev/cpus":                "1.5",
		"forefend.dev/cpu.shares":          "1024",
		"forefend.dev/pids":                "100",
		"forefend.dev/mode":                "Enforce",
		"forefend.dev/agent":               "off",
		"forefend.dev/notify":              "on",
		"forefend.dev/network":             "off",
		"forefend.dev/seccomp":             "unconfined",
		"forefend.dev/readonly_root":       "on",
		"forefend.dev/no_new_privileges":   "on",
		"forefend.dev/syscalls.allow":      "ptrace, bpf",
		"forefend.dev/serving.allow":       "execve", "forefend.dev/serving.deny": "connect", "forefend.dev/syscalls.deny": "unshare",
		"forefend.dev/capabilities.add":  "net_admin",
		"forefend.dev/capabilities.drop": "CAP_NET_RAW,CHOWN",
		"forefend.dev/masked_paths":      "/proc/kcore",
		"forefend.dev/readonly_paths":    "/proc/sys,/etc",
		"forefend.dev/egress.default":    "closed",
		"forefend.dev/egress.feeds":      "block",
		"forefend.dev/egress.allow":      "10.0.0.0/8, 2001:db8::1,::ffff:192.0.2.0/120,*.Example.com:443,db",
		"forefend.dev/egress.block":      "192.0.2.1/32,::/0",
		"forefend.dev/exec":              "non-root",
		"forefend.dev/devices.allow":     "c:10:229, b:8:*=r",
		"forefend.dev/devices.deny":      "c:1:3",
		"forefend.dev/oom_score_adj":     "500",
		"forefend.dev/io.read":           "8:0=10Mi, 254:16=unlimited",
		"forefend.dev/io.write":          "8:0=1g/s",
		"forefend.dev/io.weight":         "50",
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name string, k Key, v Value) Claim {
		return Claim{Key: k, Value: v, Amends: true, Origin: Origin{Author: Request, Source: "annotation forefend.dev/" + name}}
	}
	want := []Claim{
		ask("agent", KeyAgent, Loose),
		ask("capabilities.add", "capabilities/CAP_NET_ADMIN", Loose),
		ask("capabilities.drop", "capabilities/CAP_NET_RAW", Tight),
		ask("capabilities.drop", "capabilities/CAP_CHOWN", Tight),
		ask("cpu.shares", KeyCPUShares, 1024),
		ask("cpus", KeyCPUs, 1500),
		ask("devices.allow", "devices/c:10:229", DeviceAll),
		ask("devices.allow", "devices/b:8:*", DeviceRead),
		ask("devices.deny", "devices/c:1:3", DeviceNone),
		ask("egress.allow", "egress/10.0.0.0/8", Loose),
		ask("egress.allow", "egress/2001:db8::1", Loose),
		ask("egress.allow", "egress/192.0.2.0/24", Loose),
		ask("egress.allow", "egress/*.example.com:443", Loose),
		ask("egress.allow", "egress/db", Loose),
		ask("egress.block", "egress/192.0.2.1", Tight),
		ask("egress.block", "egress/::/0", Tight),
		ask("egress.default", KeyEgressDefault, Tight),
		ask("egress.feeds", KeyEgressFeeds, FeedsBlock),
		ask("exec", KeyExec, ExecNonRoot),
		ask("io.read", "io.read/8:0", 10<<20),
		ask("io.read", "io.read/254:16", Unlimited),
		ask("io.weight", KeyIOWeight, 50),
		ask("io.write", "io.write/8:0", 1<<30),
		ask("masked_paths", "masked_paths//proc/kcore", Tight),
		ask("memory", KeyMemory, 512<<20),
		ask("memory.soft", KeyMemorySoft, 400<<20),
		ask("memory.swap", KeyMemorySwap, Unlimited),
		ask("mode", KeyMode, ModeEnforce),
		ask("network", KeyNetwork, Tight),
		ask("no_new_privileges", KeyNoNewPrivileges, Tight),
		ask("oom_score_adj", KeyOOMScore, 500),
		ask("pids", KeyPIDs, 100),
		ask("readonly_paths", "readonly_paths//proc/sys", Tight),
		ask("readonly_paths", "readonly_paths//etc", Tight),
		ask("readonly_root", KeyReadonlyRoot, Tight),
		ask("seccomp", KeySeccomp, Loose),
		ask("serving.allow", "serving/execve", SyscallWatch),
		ask("serving.deny", "serving/connect", SyscallDeny),
		ask("syscalls.allow", "syscalls/ptrace", SyscallWatch),
		ask("syscalls.allow", "syscalls/bpf", SyscallWatch),
		ask("syscalls.deny", "syscalls/unshare", SyscallDeny),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	seen := map[string]bool{"user": true, "group": true, "notify": true, "data": true}
	for _, c := range got {
		seen[strings.TrimPrefix(c.Source, "annotation forefend.dev/")] = true
		if !c.Key.Known() {
			t.Errorf("%s is unknown", c.Key)
		}
	}
	for _, name := range AnnotationNames() {
		if !seen[name] {
			t.Errorf("%s is not tested", name)
		}
	}
}

func TestAnnotationErrors(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"memory", "0", `memory: "0" is not a size such as 64Mi`},
		{"memory", "", `"" is not a size`},
		{"memory", "NaN", `"NaN" is not a size`},
		{"memory", "inf", `"inf" is not a size`},
		{"memory", "1e999", `"1e999" is not a size`},
		{"memory", "1e3", `"1e3" is not a size`},
		{"memory", "0x10", `"0x10" is not a size`},
		{"memory", "-512Mi", `"-512Mi" is not a size`},
		{"memory", "+1Gi", `"+1Gi" is not a size`},
		{"memory", "0.1", `"0.1" is not a size`},
		{"memory", "1048577Ti", `"1048577Ti" is not a size`},
		{"memory", strings.Repeat("9", 400), `is not a size`},
		{"memory", "512Mi\x00", `"512Mi\x00" is not a size`},
		{"cpus", "0", `cpus: "0" is not a number of CPUs such as 0.5`},
		{"cpus", "NaN", `"NaN" is not a number of CPUs`},
		{"cpus", "1e999", `"1e999" is not a number of CPUs`},
		{"cpus", "-2", `"-2" is not a number of CPUs`},
		{"cpus", "0.0001", `"0.0001" is not a number of CPUs`},
		{"cpus", "1000001", `"1000001" is not a number of CPUs`},
		{"pids", "0", `pids: "0" is not a whole number of at least 1`},
		{"pids", "-5", `"-5" is not a whole number`},
		{"pids", "1.5", `"1.5" is not a whole number`},
		{"pids", "99999999999999999999", `is not a whole number`},
		{"cpu.shares", "1", `"1" is not a whole number of at least 2`},
		{"mode", "strict", `mode: "strict" is not one of enforce, adaptive, observe`},
		{"sealed", "yes", "unknown; known are agent, "},
		{"memroy", "1Gi", "annotation forefend.dev/memroy: unknown; known are agent, "},
		{"x\ny" + strings.Repeat("z", 1000), "1", "annotation forefend.dev/x?yzzz"},
		{"", "", "annotation forefend.dev/: unknown"},
		{"user", "", `"" is not a name`},
		{"group", "a b", `"a b" is not a name`},
		{"notify", "yes", `"yes" is neither on nor off`},
		{"data", "", `"" is not a class of data`},
		{"data", "top secret", `"top secret" is not a class of data`},
		{"data", strings.Repeat("d", 65), `is not a class of data: 1 to 64`},
		{"user", strings.Repeat("u", 129), "is not a name"},
		{"syscalls.deny", "", `"" is not the name of a system call`},
		{"syscalls.deny", "ptrace,,bpf", `"" is not the name of a system call`},
		{"syscalls.deny", "ptrace;bpf", `"ptrace;bpf" is not the name of a system call`},
		{"syscalls.deny", strings.Repeat("a", 41), `is not the name of a system call`},
		{"syscalls.deny", strings.Repeat("a,", 1024) + "a", "more than 1024 names"},
		{"capabilities.drop", "CAP_", `"CAP_" is not the name of a capability`},
		{"capabilities.drop", "ALL!", `"ALL!" is not the name of a capability`},
		{"masked_paths", "proc", `"proc" is not a clean absolute path`},
		{"masked_paths", "/proc/../etc", "is not a clean absolute path"},
		{"masked_paths", "/..", "is not a clean absolute path"},
		{"masked_paths", "/", "is not a clean absolute path"},
		{"readonly_paths", "", "is not a clean absolute path"},
		{"readonly_paths", "/a\nb", "is not a clean absolute path"},
		{"readonly_paths", "/" + strings.Repeat("a", 4096), "is not a clean absolute path"},
		{"egress.default", "shut", `"shut" is not one of closed, open`},
		{"egress.allow", "example..com", `"example..com" is not an address, a network or a name such as 192.0.2.1`},
		{"egress.allow", "fe80::1%eth0", `is not an address, a network or a name`},
		{"egress.allow", "::ffff:0.0.0.0/95", `is not an address, a network or a name`},
		{"egress.block", "10.0.0.1/8", `"10.0.0.1/8" has bits behind its network: write 10.0.0.0/8`},
		{"egress.block", "", `"" is not an address, a network or a name`},
		{"memory", strings.Repeat("1", 64<<10+1), "value has 65537 bytes, the most is 65536"},
	} {
		claims, err := ParseAnnotations(map[string]string{Prefix + c.name: c.value, Prefix + "pids": "1", Prefix + "cpus": "1", Prefix + c.name + "": c.value})
		if err == nil || !strings.Contains(err.Error(), c.want) || claims != nil {
			t.Errorf("%.20s = %.40q: %v, %v, want %s", c.name, c.value, claims, err, c.want)
			continue
		}
		if s := err.Error(); strings.Contains(s, "\n") || len(s) > 1000 || !strings.HasPrefix(s, "annotation "+Prefix) {
			t.Errorf("%.20s: %d bytes: %.300q", c.name, len(s), s)
		}
	}
}

func TestDataClass(t *testing.T) {
	label := map[string]string{AnnotationData: "Confidential"}
	if claims, err := ParseAnnotations(label); err != nil || claims != nil {
		t.Errorf("%v, %v", claims, err)
	}
	if got := DataClass(label); got != "confidential" {
		t.Errorf("%q", got)
	}
	if got := DataClass(nil); got != "" {
		t.Errorf("%q", got)
	}
}

func TestAnnotationErrorsComeAtOnceAndBounded(t *testing.T) {
	_, err := ParseAnnotations(map[string]string{Prefix + "memory": "x", Prefix + "pids": "y", Prefix + "cpus": "1"})
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "memory: ") || !strings.Contains(err.Error(), "pids: ") {
		t.Errorf("got %v", err)
	}
	many := make(map[string]string)
	for i := range 5000 {
		many[fmt.Sprintf("%sunknown%d", Prefix, i)] = "x"
	}
	_, err = ParseAnnotations(many)
	if err == nil || strings.Count(err.Error(), "\n") != maxErrors || !strings.HasSuffix(err.Error(), "and more annotations are wrong") {
		t.Errorf("got %v", err)
	}
}

func TestParseMember(t *testing.T) {
	k, v, err := ParseMember("capabilities.drop", "net_raw")
	if k != "capabilities/CAP_NET_RAW" || v != Tight || err != nil {
		t.Errorf("got %v %v %v", k, v, err)
	}
	if _, _, err := ParseMember("syscalls.kill", "ptrace"); err == nil || !strings.Contains(err.Error(), "capabilities.add, ") {
		t.Errorf("got %v", err)
	}
}

// FuzzParseAnnotations gives one annotation any name and value: it is claims
// that Merge can use, or an error that is fit to print and no claim at all.
func FuzzParseAnnotations(f *testing.F) {
	for _, name := range AnnotationNames() {
		f.Add(name, "512Mi")
		f.Add(name, "on")
		f.Add(name, "NET_RAW,ptrace,/proc/kcore")
	}
	f.Add("memory", "1e999")
	f.Add("unknown\n", "NaN")
	f.Fuzz(func(t *testing.T, name, value string) {
		claims, err := ParseAnnotations(map[string]string{Prefix + name: value})
		if err != nil {
			if s := err.Error(); len(claims) > 0 || len(s) > 2000 || strings.Contains(s, "\n") {
				t.Errorf("%d claims, error of %d bytes: %.200q", len(claims), len(s), s)
			}
			return
		}
		for _, c := range claims {
			if !c.Key.Known() || c.Value < 0 || !c.Amends || c.Author != Request || c.Source == "" {
				t.Errorf("claim %+v", c)
			}
			if back, err := c.Key.Parse(c.Key.Format(c.Value)); err != nil && c.Key.Words() != nil || err == nil && c.Key.Words() != nil && back != c.Value {
				t.Errorf("%s of %d reads back as %d, %v", c.Key, c.Value, back, err)
			}
		}
		for k, f := range memberFields(Merge(Input{Claims: claims})) {
			if !f.NoValue && f.Source == "" {
				t.Errorf("%s: %+v", k, f)
			}
		}
	})
}

func TestParseAnnotationsAllCapabilities(t *testing.T) {
	claims, err := ParseAnnotations(map[string]string{Prefix + "capabilities.drop": "all, chown"})
	if err != nil {
		t.Fatal(err)
	}
	dropped := make(map[Key]bool)
	for _, c := range claims {
		if c.Value != Tight || !c.Amends {
			t.Errorf("%+v does not drop", c)
		}
		dropped[c.Key] = true
	}
	names := CapabilityNames()
	if len(dropped) != len(names) || !dropped[KeyCapabilities.Member("CAP_CHOWN")] || !dropped[KeyCapabilities.Member("CAP_BPF")] {
		t.Errorf("dropped %d of %d capabilities", len(dropped), len(names))
	}
	names[0] = "changed"
	if !KnownCapability("CAP_CHOWN") || KnownCapability("CAP_ALL") {
		t.Error("the list is not the caller's, or knows a capability that Linux does not")
	}
}

func TestParseEgressName(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 4)
	for name, want := range map[string]string{
		"db": "db 0 true", "db.example.com:5432": "db.example.com 5432 true", "*.example.com": "*.example.com 0 true", "_x.a-1:65535": "_x.a-1 65535 true",
		"": "", "a.": "", ".a": "", "*": "", "a:0": "", "a:080": "", "a:65536": "", "a:": "", "A": "", "a b": "", "*.*.a": "", "10.0.0.1:80": "", "1.2": "",
		long + "a": "", strings.Repeat("a", 64): "", "[::1]:80": "",
	} {
		host, port, ok := ParseEgressName(name)
		if got := fmt.Sprint(host, " ", port, " ", ok); ok && got != want || !ok && want != "" {
			t.Errorf("%q: %s, want %q", name, got, want)
		}
	}
}
