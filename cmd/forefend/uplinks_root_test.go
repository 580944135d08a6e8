package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// uplinkNode is a node's network with a tunneld in it.
type uplinkNode struct {
	*site
	ns *enter.Namespace
}

// write writes the configuration, with an uplink of that rate, "" for none.
func (n *uplinkNode) write(t *testing.T, rate string) {
	t.Helper()
	text := fmt.Sprintf("root = %q\nstate = %q\n[[tunnel]]\nname = \"direct\"\nkind = \"direct\"\n", n.Root, n.State)
	if rate != "" {
		text += fmt.Sprintf("[[egress.uplink]]\ndevice = \"up0\"\nrate = %q\n", rate)
	}
	if err := errors.Join(os.WriteFile(n.Path+"~", []byte(text), 0o600), os.Rename(n.Path+"~", n.Path)); err != nil {
		t.Fatal(err)
	}
}

// start starts tunneld in the namespace.
func (n *uplinkNode) start(t *testing.T) *exec.Cmd { return startIn(t, n.ns, n.command("tunneld")) }

// comes waits until tunneld says that of its uplinks.
func (n *uplinkNode) comes(t *testing.T, want string) {
	t.Helper()
	eventually(t, want, func() bool {
		client, err := api.DialTunnels(t.Context(), n.TunnelsSocket())
		if err != nil {
			return false // it does not serve yet
		}
		defer client.Close()
		all, err := listUplinks(t.Context(), client)
		var texts []string
		for _, u := range all {
			texts = append(texts, fmt.Sprintf("%s %s %s, %d classes", u.Device, pdp.BitsText(u.Rate), u.Status, len(u.Classes)))
		}
		return err == nil && strings.Join(texts, "; ") == want
	})
}

// has fails the test where the device's root is not of that kind.
func (n *uplinkNode) has(t *testing.T, when, want string) {
	t.Helper()
	var got string
	network.In(t, n.ns, func() error {
		link, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(link)
		for _, q := range all {
			if q.Attrs().Parent == netlink.HANDLE_ROOT {
				got = q.Type()
			}
		}
		return err
	})
	if got != want {
		t.Errorf("%s the device has %q, want %q", when, got, want)
	}
}

// TestRootTunneldUplink: tunneld keeps the uplink of its configuration, takes up what a killed one left, and gives the device back.
func TestRootTunneldUplink(t *testing.T) {
	root.Test(t)
	n := &uplinkNode{site: newSite(t), ns: network.Of(t)}
	t.Cleanup(func() {
		if group, err := cgroup.Named(groupOf(n.Config, tunnelGroup)); err == nil {
			eventually(t, "the end of tunneld's cgroup", func() bool { return group.Remove() == nil })
		}
	})
	if err := network.Join(network.End{In: n.ns, Name: "up0"}, network.End{In: network.Of(t), Name: "far0"}); err != nil {
		t.Fatal(err)
	}
	n.write(t, "20mbit")
	first := n.start(t)
	n.comes(t, "up0 20mbit kept, 4 classes")
	n.write(t, "30mbit")
	n.comes(t, "up0 30mbit kept, 4 classes")

	_ = errors.Join(first.Process.Kill(), first.Wait()) // that it was killed
	n.has(t, "after a kill", "htb")
	second := n.start(t)
	n.comes(t, "up0 30mbit kept, 4 classes")
	n.write(t, "")
	n.comes(t, "")
	n.has(t, "without a table", "noqueue")
	n.write(t, "20mbit")
	n.comes(t, "up0 20mbit kept, 4 classes")
	if err := errors.Join(second.Process.Signal(syscall.SIGTERM), second.Wait()); err != nil {
		t.Errorf("tunneld ended with %v", err)
	}
	n.has(t, "after a stop", "noqueue")

	// One that is killed, and comes back without a table.
	third := n.start(t)
	n.comes(t, "up0 20mbit kept, 4 classes")
	_ = errors.Join(third.Process.Kill(), third.Wait())
	n.write(t, "")
	n.start(t)
	n.comes(t, "")
	n.has(t, "after a restart without a table", "noqueue")
}
