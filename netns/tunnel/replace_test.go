package tunnel

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// TestReplace: leases stay whose devices would be the same, and no others; what was said of a tunnel stays with it.
func TestReplace(t *testing.T) {
	slot := func(key string) Slot { return Slot{KeyFile: key} }
	base := func() []Tunnel {
		return []Tunnel{
			{Name: "direct", Kind: Direct},
			{Name: "a", Kind: WireGuard, Class: "eu", Encryption: flow.Standard, MTU: 1420, Slots: []Slot{slot("1"), slot("2")}},
			{Name: "b", Kind: WireGuard, Class: "eu", Encryption: flow.Standard, MTU: 1420, Slots: []Slot{slot("3")}},
		}
	}
	for name, test := range map[string]struct {
		change func([]Tunnel) []Tunnel
		cut    []string
	}{
		"nothing":       {func(t []Tunnel) []Tunnel { return t }, nil},
		"another order": {func(t []Tunnel) []Tunnel { slices.Reverse(t); return t }, nil},
		"a slot more":   {func(t []Tunnel) []Tunnel { t[1].Slots = append(t[1].Slots, slot("9")); return t }, nil},
		"a slot less":   {func(t []Tunnel) []Tunnel { t[1].Slots = t[1].Slots[:1]; return t }, []string{"a 1"}},
		"another key":   {func(t []Tunnel) []Tunnel { t[1].Slots[0] = slot("9"); return t }, []string{"a 0"}},
		"another class": {func(t []Tunnel) []Tunnel { t[1].Class = "us"; return t }, nil},
		"endpoint":      {func(t []Tunnel) []Tunnel { t[1].Endpoints = []string{"x:1"}; return t }, []string{"a 0", "a 1"}},
		"rate":          {func(t []Tunnel) []Tunnel { t[2].DeadAfter = time.Minute; return t }, []string{"b 0"}},
		"gone":          {func(t []Tunnel) []Tunnel { return t[:2] }, []string{"b 0"}},
		"all gone":      {func([]Tunnel) []Tunnel { return nil }, []string{"direct 0", "a 0", "a 1", "b 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPool(base())
			for _, l := range []Lease{{"direct", 0, Holder{Namespace: 1}}, {"a", 0, Holder{Namespace: 1}}, {"a", 1, Holder{Namespace: 2}}, {"b", 0, Holder{Namespace: 1}}} {
				if _, err := p.Restore(l); err != nil {
					t.Fatal(err)
				}
			}
			var cut []string
			for _, l := range p.Replace(test.change(base())) {
				cut = append(cut, fmt.Sprint(l.Tunnel, " ", l.Slot))
			}
			if !slices.Equal(cut, test.cut) {
				t.Errorf("cut %v, want %v", cut, test.cut)
			}
			for _, old := range base() {
				for slot := range max(1, len(old.Slots)) {
					i := slices.IndexFunc(test.change(base()), func(now Tunnel) bool { return now.Name == old.Name })
					stays := i >= 0 && test.change(base())[i].print(slot) == old.print(slot)
					if stays == slices.Contains(cut, fmt.Sprint(old.Name, " ", slot)) {
						t.Errorf("slot %d of %s: by its print the device is the same, %v", slot, old.Name, stays)
					}
				}
			}
			left := 0
			for _, s := range p.List() {
				left += len(s.Leases)
			}
			if left != 4-len(cut) {
				t.Errorf("%d leases are left of 4, %d were cut", left, len(cut))
			}
		})
	}
	p := NewPool(base())
	p.Report("a", Down, "silent")
	if err := p.Drain("b", true); err != nil {
		t.Fatal(err)
	}
	p.Replace(base())
	if all := p.List(); all[1].Health != Down || all[1].Reason != "silent" || !all[2].Draining {
		t.Errorf("forgotten: %+v", all)
	}
}
