package gateway

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/network"
)

// capture records what a device sends and is sent.
type capture struct {
	mu    sync.Mutex
	bytes []byte          // guarded by mu
	from  map[string]bool // sources of IPv4, guarded by mu
}

func watch(t testing.TB, ns *enter.Namespace, device string) *capture {
	t.Helper()
	c := &capture{from: make(map[string]bool)}
	stop, err := network.Watch(ns, device, func(packet []byte, _ bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bytes = append(c.bytes, packet...)
		if len(packet) >= 20 && packet[0]>>4 == 4 {
			c.from[netip.AddrFrom4([4]byte(packet[12:16])).String()] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return c
}

func (c *capture) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.bytes)
}

// sources are those of IPv4, in order.
func (c *capture) sources() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for a := range c.from {
		all = append(all, a)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
