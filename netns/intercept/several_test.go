package intercept

import (
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/names"
)

// TestSeveralNames: a connection of which nothing can be seen, to an address that was the answer for two names, is decided with both, and shown so.
func TestSeveralNames(t *testing.T) {
	r := newRig(t, "192.0.2.7:5432", Limits{})
	r.dialer.to[""] = server(t, func(c *client) { _, _ = io.Copy(c, c.r) })
	r.Set(&Settings{Names: Names{Resolvers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}})
	for _, host := range []string{"db.example", "db-1.example"} {
		r.lookups.known.Learn(host, names.Answer{Addresses: []netip.Addr{r.to.Addr()}}, true, time.Now())
	}
	c := r.client()
	c.send("\x00hello")
	if _, err := io.ReadFull(c.r, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	want := []string{"db-1.example", "db.example"}
	seen, flows := r.rules.contexts(), r.Flows()
	if len(seen) != 1 || !slices.Equal(seen[0].Names, want) || seen[0].Host != "" || seen[0].HostProof != flow.Answered {
		t.Errorf("decided by %+v", seen)
	}
	if len(flows) != 1 || !slices.Equal(flows[0].Context.Names, want) {
		t.Errorf("shown as %+v", flows)
	}
}
