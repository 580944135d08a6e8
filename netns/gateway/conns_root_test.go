package gateway

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"

	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// TestRootConnsEnd ends the hearing of connections that end while more of them end than anybody takes.
func TestRootConnsEnd(t *testing.T) {
	root.Test(t)
	ns := network.Of(t)
	network.In(t, ns, func() error {
		const settings = "/proc/sys/net/netfilter/nf_conntrack_"
		return errors.Join(os.WriteFile(settings+"acct", []byte("1"), 0), os.WriteFile(settings+"timestamp", []byte("1"), 0))
	})
	c, err := openConns(ns)
	if err != nil {
		t.Fatal(err)
	}
	for port := range uint16(2 * cap(c.events)) {
		f := conntrack.NewFlow(17, 0, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), port+1, 9, 60, 0)
		if err := c.table.Create(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.table.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody takes what was heard", func() bool { return len(c.events) == cap(c.events) })
	ended := make(chan error, 1)
	go func() {
		err := c.close()
		for heard := error(nil); !errors.Is(heard, errShut); {
			_, heard = c.ends()
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}
