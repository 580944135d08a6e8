package policy

import (
	"strings"
	"testing"
)

func TestDevice(t *testing.T) {
	for _, s := range []string{"c:1:3", "b:8:*", "c:*:*", "c:4095:1048575"} {
		if d, err := ParseDevice(s); err != nil || d.String() != s {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	}
	if d, err := ParseDevice("c:001:03"); err != nil || d.String() != "c:1:3" {
		t.Errorf("%v, %v", d, err)
	}
	for _, s := range []string{"", "c", "c:1", "a:1:3", "c:x:3", "c:1:x", "c:-1:3", "c:1:+3", "c:*:3", "c:4096:1", "c:1:1048576", "cc:1:3", "c:1:3:4", "c::"} {
		if _, err := ParseDevice(s); err == nil || !strings.Contains(err.Error(), "is not a device") {
			t.Errorf("%s: %v", s, err)
		}
	}
	one, major, all := Device{'c', 1, 3}, Device{'c', 1, AnyNumber}, Device{'c', AnyNumber, AnyNumber}
	for _, tc := range []struct {
		a, b Device
		want bool
	}{{one, one, true}, {major, one, true}, {all, major, true}, {all, one, true}, {one, major, false}, {major, all, false},
		{Device{'b', 1, 3}, one, false}, {Device{'c', 1, 4}, one, false}, {Device{'c', 2, AnyNumber}, one, false}} {
		if got := tc.a.Covers(tc.b); got != tc.want {
			t.Errorf("%s covers %s: %v", tc.a, tc.b, got)
		}
	}
}

func TestDeviceLists(t *testing.T) {
	for _, tc := range []struct {
		list, item string
		key        Key
		value      Value
	}{
		{"devices.allow", "c:10:229", "devices/c:10:229", DeviceAll},
		{"devices.allow", "b:8:*=r", "devices/b:8:*", DeviceRead},
		{"devices.allow", "c:1:3=none", "devices/c:1:3", DeviceNone},
		{"devices.deny", "c:1:3", "devices/c:1:3", DeviceNone},
		{"io.read", "8:0=10Mi", "io.read/8:0", 10 << 20},
		{"io.write", "008:00=2", "io.write/8:0", 2},
		{"io.write", "8:0=max", "io.write/8:0", Unlimited},
	} {
		if k, v, err := ParseMember(tc.list, tc.item); err != nil || k != tc.key || v != tc.value {
			t.Errorf("%s %s: %s %d, %v", tc.list, tc.item, k, v, err)
		}
	}
	for _, bad := range [][2]string{{"devices.allow", "c:1:3=x"}, {"devices.allow", "/dev/null"}, {"devices.deny", "c:1:3=r"},
		{"io.read", "8:0"}, {"io.read", "8:0="}, {"io.write", "8:0=1"}, {"io.write", "8:0=fast"}, {"io.write", "sda=10Mi"}, {"io.write", "=10Mi"}} {
		if _, _, err := ParseMember(bad[0], bad[1]); err == nil {
			t.Errorf("%s %s is read", bad[0], bad[1])
		}
	}
}

func TestDisk(t *testing.T) {
	for s, want := range map[string]Disk{"8:0": {8, 0}, "4095:1048575": {4095, 1048575}, "07:01": {7, 1}} {
		if d, err := ParseDisk(s); err != nil || d != want {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	}
	for _, s := range []string{"", "8", "8:", ":0", "8:*", "*:0", "*:*", "-1:0", "8:+0", "8:0:0", "b:8:0", "4096:0", "8:1048576", "8: 0", "sda"} {
		if d, err := ParseDisk(s); err == nil || !strings.Contains(err.Error(), "lsblk") {
			t.Errorf("%s: %v, %v", s, d, err)
		}
	}
}

func FuzzParseDisk(f *testing.F) {
	f.Add("8:0")
	f.Add("*:*")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDisk(s)
		if err != nil {
			return
		}
		if again, err := ParseDisk(d.String()); err != nil || again != d {
			t.Errorf("%q: %v, %v, %v", s, d, again, err)
		}
	})
}

func FuzzParseDevice(f *testing.F) {
	f.Add("c:1:3")
	f.Add("b:*:*")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDevice(s)
		if err != nil {
			return
		}
		if again, err := ParseDevice(d.String()); err != nil || again != d || !d.Covers(again) {
			t.Errorf("%q: %v, %v, %v", s, d, again, err)
		}
	})
}
