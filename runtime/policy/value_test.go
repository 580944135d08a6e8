package policy

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestScales(t *testing.T) {
	const mi = 1 << 20
	for _, c := range []struct {
		key    Key
		text   string
		value  Value
		format string // as printed, "" when it is text
	}{
		{KeyMemory, "512Mi", 512 * mi, "512 MiB"},
		{KeyMemory, "512m", 512 * mi, "512 MiB"},
		{KeyMemory, "512M", 512 * mi, "512 MiB"},
		{KeyMemory, "512 MiB", 512 * mi, ""},
		{KeyMemory, "512MB", 512e6, "488.3 MiB"},
		{KeyMemory, "1.5g", 1536 * mi, "1.5 GiB"},
		{KeyMemory, "1Ti", 1 << 40, "1 TiB"},
		{KeyMemory, "2048Ti", 1 << 51, "2048 TiB"},
		{KeyMemory, "1kB", 1000, "1000 B"},
		{KeyMemory, "1b", 1, "1 B"},
		{KeyMemory, "4096", 4096, "4 KiB"},
		{KeyMemory, "unlimited", Unlimited, ""},
		{KeyMemory, "MAX", Unlimited, "unlimited"},
		{KeyMemorySwap, "-1", Unlimited, "unlimited"},
		{KeyCPUs, "1.5", 1500, ""},
		{KeyCPUs, "500m", 500, "0.5"},
		{KeyCPUs, "2", 2000, ""},
		{KeyCPUs, "unlimited", Unlimited, ""},
		{KeyPIDs, "100", 100, ""},
		{KeyPIDs, "unlimited", Unlimited, ""},
		{"io.write/8:0", "10Mi", 10 * mi, "10 MiB/s"},
		{"io.write/8:0", "1.5 GiB/s", 1536 * mi, ""},
		{"io.read/8:0", "2", 2, "2 B/s"},
		{"io.read/8:0", "max", Unlimited, "unlimited"},
		{"rlimits/RLIMIT_NOFILE", "0", 0, ""},
		{KeyMode, "enforce", ModeEnforce, ""},
		{KeyMode, "Observe", ModeObserve, "observe"},
		{KeyNetwork, "off", Tight, ""},
		{KeyNoNewPrivileges, "on", Tight, ""},
		{"syscalls/ptrace", "kill", SyscallKill, ""},
		{"syscalls/ptrace", "native", SyscallNative, ""},
		{"capabilities/CAP_CHOWN", "kept", Loose, ""},
	} {
		v, err := c.key.Parse(c.text)
		if err != nil || v != c.value {
			t.Errorf("%s %q is %d, %v, want %d", c.key, c.text, v, err, c.value)
		}
		want := c.format
		if want == "" {
			want = c.text
		}
		if got := c.key.Format(v); got != want {
			t.Errorf("%s %d prints as %q, want %q", c.key, v, got, want)
		}
	}
}

// TestScalesRoundTrip prints any value and reads it back: exactly, but for
// bytes, which are rounded for people.
func TestScalesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.SampledFrom(Keys()).Draw(t, "key")
		v := Value(rapid.Int64Range(2, 1e9).Draw(t, "value"))
		if w := k.Words(); w != nil {
			v %= Value(len(w))
		}
		switch k {
		case KeyOOMScore:
			v %= 2001
		case KeyIOWeight:
			v = 10 + v%991
		}
		if k != KeyOOMScore && k.Words() == nil && rapid.Bool().Draw(t, "unlimited") {
			v = Unlimited
		}
		s := k.Format(v)
		back, err := k.Parse(s)
		if err != nil {
			t.Fatalf("%s prints %d as %q: %v", k, v, s, err)
		}
		exact := !strings.Contains(s, "iB")
		if off := float64(back-v) / float64(v); exact && back != v || off > 0.051 || off < -0.051 {
			t.Fatalf("%s prints %d as %q, which reads as %d", k, v, s, back)
		}
	})
}

func TestWordsOutsideTheScale(t *testing.T) {
	if got := KeyMode.Format(-1) + KeyMode.Format(77); got != "enforceobserve" {
		t.Errorf("got %s", got)
	}
}

func TestKeys(t *testing.T) {
	for _, k := range Keys() {
		plain := k.Known()
		member := k.Member("x")
		if plain == member.Known() {
			t.Errorf("%s: known %v, its member %v", k, plain, member.Known())
		}
		if k.Dimension() == "" || k.Help() == "" {
			t.Errorf("%s has dimension %q, help %q", k, k.Dimension(), k.Help())
		}
	}
	for _, k := range []Key{"", "/", "x", "x/y", "syscalls", "syscalls/", "memory/x", "/syscalls"} {
		if k.Known() {
			t.Errorf("%q is known", k)
		}
		if family, name := k.Family(); family != k || name != "" {
			t.Errorf("%q is of family %q, %q", k, family, name)
		}
	}
	const unknown = Key("memry")
	if _, err := unknown.Parse("1"); err == nil || unknown.Dimension() != "" || unknown.Help() != "" || unknown.Words() != nil || unknown.Format(5) != "5" {
		t.Errorf("an unknown key: %v, %q, %q, %v, %q", err, unknown.Dimension(), unknown.Help(), unknown.Words(), unknown.Format(5))
	}
	if family, name := Key("masked_paths//proc/kcore").Family(); family != KeyMaskedPaths || name != "/proc/kcore" {
		t.Errorf("got %s, %s", family, name)
	}
	if w := KeyMemory.Words(); w != nil {
		t.Errorf("memory has words %v", w)
	}
	KeyMode.Words()[0] = "changed"
	if KeyMode.Words()[0] != "enforce" {
		t.Error("Words handed out the table")
	}
}

// The kernel's score grows where a container is given up sooner: that is the tight end.
func TestOOMScore(t *testing.T) {
	for adj, want := range map[string]Value{"1000": 0, "0": 1000, "-1000": 2000} {
		if v, err := KeyOOMScore.Parse(adj); err != nil || v != want || FromOOMScore(v) != 1000-int(want) || KeyOOMScore.Format(v) != adj {
			t.Errorf("%s is %d, %v", adj, v, err)
		}
	}
	for _, s := range []string{"1001", "-1001", "", "unlimited"} {
		if _, err := KeyOOMScore.Parse(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	if OOMScore(5000) != 0 || FromOOMScore(Unlimited) != -1000 {
		t.Error("beyond the kernel's bounds")
	}
}
