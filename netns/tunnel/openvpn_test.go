package tunnel

import (
	"testing"
	"time"

	"forefend.dev/forefend/netns/openvpn"
)

// TestBackoff has one slot's device wait, connected, and another one's come to nothing: that is tried ever less often, and the tunnel is up.
func TestBackoff(t *testing.T) {
	one := Tunnel{Name: "one", Kind: OpenVPN, OpenVPN: OpenVPNSettings{CAFile: "/nonexistent", Ready: 2}, Slots: make([]Slot, 2)}
	var health Health
	o := newOpenVPN(nil, func(_ string, h Health, _ string) { health = h })
	there := &arrival{of: &one, done: make(chan struct{}), process: &openvpn.Process{}}
	close(there.done)
	o.waiting[place{"one", 0}] = there
	tried, now := 0, time.Now()
	for range 30 {
		now = now.Add(time.Second)
		o.keep(now, []Standing{{Tunnel: one}}, func(string, int) []int { return []int{0, 1} })
		if o.waiting[place{"one", 1}] != nil {
			tried++
		}
		o.begun.Wait()
		if health != Up {
			t.Fatalf("the tunnel is %q, and a device of it waits", health)
		}
	}
	if o.waiting[place{"one", 0}] != there || tried < 2 || tried > 6 {
		t.Errorf("tried %d times in half a minute", tried)
	}
}
