package mounts

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const someTable = `30 29 0:25 / / rw,relatime shared:1 master:2 - overlay overlay rw,lowerdir=/a:/b
31 30 0:26 / /proc rw,nosuid - proc proc rw
32 31 0:27 /null /proc/kcore rw - tmpfs tmpfs rw,size=64k
33 31 0:26 /sys /proc/sys ro,nosuid - proc proc rw
34 30 8:1 /v /a\040b\134c ro shared:9 propagate_from:3 - ext4 /dev/sda1 rw
35 31 0:28 / /proc/sys ro - tmpfs tmpfs ro
`

func TestParseTable(t *testing.T) {
	table, err := parseTable([]byte(someTable))
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{
		{30, 29, "/", "/", false, true, "overlay"},
		{31, 30, "/", "/proc", false, false, "proc"},
		{32, 31, "/null", "/proc/kcore", false, false, "tmpfs"},
		{33, 31, "/sys", "/proc/sys", true, false, "proc"},
		{34, 30, "/v", `/a b\c`, true, true, "ext4"},
		{35, 31, "/", "/proc/sys", true, false, "tmpfs"},
	}
	if !reflect.DeepEqual(table, want) {
		t.Errorf("%+v", table)
	}
	if m, ok := below(table, "/proc"); !ok || m.point != "/proc/kcore" {
		t.Errorf("below /proc: %+v", m)
	}
	if m, ok := below(table, "/proc/s"); ok {
		t.Errorf("below /proc/s: %+v", m)
	}
	for _, bad := range []string{"x", "1 2 3 4 5 6 7 8 9", "x 29 0:25 / / rw - t s o", "1 x 0:25 / / rw - t s o", "1 2 0:25 / / rw -"} {
		if _, err := parseTable([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

// TestNote: runc covers what is read-only first and what is hidden last, so of two mounts at a path the upper hides it.
func TestNote(t *testing.T) {
	table, err := parseTable([]byte(someTable))
	if err != nil {
		t.Fatal(err)
	}
	f := &Files{layers: make(map[place]layer)}
	f.note(table, []string{"/proc/sys", "/proc/kcore", "/proc/missing"}, []string{"/proc/sys", "/sys"})
	want := map[place]layer{
		{hidden, "/proc/sys"}: {id: 35}, {hidden, "/proc/kcore"}: {id: 32}, {protected, "/proc/sys"}: {id: 33},
	}
	if !reflect.DeepEqual(f.layers, want) {
		t.Errorf("%v", f.layers)
	}
}

func TestInverse(t *testing.T) {
	yes := true
	c := Change{Mask: []string{"/a"}, Unmask: []string{"/b"}, Protect: []string{"/c"}, Release: []string{"/d"}, Root: &yes}
	i := c.inverse()
	if i.Mask[0] != "/b" || i.Unmask[0] != "/a" || i.Protect[0] != "/d" || i.Release[0] != "/c" || *i.Root || !yes {
		t.Errorf("%+v", i)
	}
	if !(Change{}).inverse().empty() {
		t.Error("the inverse of nothing is something")
	}
}

func TestSurveyOfNobody(t *testing.T) {
	if _, err := Survey(1<<30, nil, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestLacking(t *testing.T) {
	err := lacking("mount_setattr", "5.12", unix.ENOSYS)
	if u := new(UnsupportedError); !errors.As(err, &u) || !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "5.12") {
		t.Error(err)
	}
	if err := lacking("mount_setattr", "5.12", unix.EBUSY); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte(someTable))
	f.Add([]byte("1 2 3:4 / /\\04 rw - t s o"))
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := parseTable(text)
		if err != nil && table != nil {
			t.Error("a table with an error")
		}
		for _, m := range table {
			if strings.Contains(m.point, " ") && !strings.Contains(string(text), `\040`) {
				t.Errorf("a space from nowhere: %q", m.point)
			}
		}
	})
}
