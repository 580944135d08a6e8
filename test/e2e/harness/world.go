package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/network"
)

// WorldAddresses are those of every World, documentation addresses all.
var WorldAddresses = []string{"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "2001:db8:9::1"}

// WebPort is where a World serves HTTP.
const WebPort = "8080"

// World is the rest of the world as containers see it: a network namespace that no path names, with WorldAddresses, servers, and a
// link to each container. Several may live side by side. Methods are for one goroutine at a time.
type World struct {
	space   *enter.Namespace
	links   int
	closers []func()
}

// NewWorld makes a world without servers. The caller must Close it.
func NewWorld() (*World, error) {
	space, err := network.New()
	if err != nil {
		return nil, err
	}
	w := &World{space: space}
	w.closers = append(w.closers, func() { _ = space.Close() })
	err = w.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644); err != nil {
			return err
		}
		return network.Up("lo", WorldAddresses...)
	})
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("a world: %w", err)
	}
	return w, nil
}

// Do runs f in the world's network, on a thread of its own. What f opens stays there. f must not end the goroutine (no t.Fatal).
func (w *World) Do(f func() error) error { return w.space.Do(f) }

// Namespace is the world's network, which is the world's to close.
func (w *World) Namespace() *enter.Namespace { return w.space }

// NameServer runs a name server in the world until stop; args are dnsmasq's.
func (w *World) NameServer(args ...string) (stop func(), err error) {
	return network.NameServer(w.space, args...)
}

// Close ends the servers; with the last container that has a link to it the world ends.
func (w *World) Close() {
	for len(w.closers) > 0 {
		last := len(w.closers) - 1
		w.closers[last]()
		w.closers = w.closers[:last]
	}
}

// Link connects the network namespace of a process with the world, as CNI would, by a device eth0 with default routes. It returns
// the process's IPv4 address, in a network of its own, and the name of the world's end.
func (w *World) Link(pid int) (address, device string, err error) {
	w.links++
	device = fmt.Sprintf("out%d", w.links)
	here, there := fmt.Sprintf("10.98.%d.1", w.links), fmt.Sprintf("10.98.%d.2", w.links)
	here6, there6 := fmt.Sprintf("fd98:%x::1", w.links), fmt.Sprintf("fd98:%x::2", w.links)
	inside, err := enter.Process(pid)
	if err != nil {
		return "", "", err
	}
	defer inside.Close()
	err = errors.Join(inside.Do(func() error { return network.Up("lo") }), network.Join(
		network.End{In: w.space, Name: device, Addresses: []string{here + "/24", here6 + "/64"}},
		network.End{In: inside, Name: "eth0", Addresses: []string{there + "/24", there6 + "/64"}, Gateways: []string{here, here6}}))
	if err != nil {
		return "", "", fmt.Errorf("link %s to the network of process %d: %w", device, pid, err)
	}
	return there, device, nil
}

// Serve serves HTTP/1 and HTTP/2 without TLS on WebPort of all addresses, where every request is answered with a line that bears the name. It returns the
// number of requests so far.
func (w *World) Serve(name string) (*atomic.Int64, error) {
	asked := new(atomic.Int64)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprintln(w, name)
	}), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	var listener net.Listener
	if err := w.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":"+WebPort)
		return err
	}); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until Close
	}()
	w.closers = append(w.closers, func() {
		_ = server.Close()
		<-done
	})
	return asked, nil
}

// Echo sends back, on a port of all addresses, what comes by TCP and UDP.
func (w *World) Echo(port string) error {
	for _, a := range WorldAddresses { // a datagram's answer comes from where it went only if its socket has that address
		if err := w.echo(net.JoinHostPort(a, port)); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) echo(address string) error {
	var l net.Listener
	var p net.PacketConn
	if err := w.Do(func() (err error) {
		if l, err = net.Listen("tcp", address); err != nil {
			return err
		}
		if p, err = net.ListenPacket("udp", address); err != nil {
			return errors.Join(err, l.Close())
		}
		return nil
	}); err != nil {
		return err
	}
	w.closers = append(w.closers, func() { _, _ = l.Close(), p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(b[:n], from)
		}
	}()
	return nil
}

// StartLinked creates the container id (args are those of `ctr container create`), and starts it once its network namespace has a
// link to the world, of which it returns the world's end.
func (e *Env) StartLinked(ctx context.Context, w *World, id string, args ...string) (device string, err error) {
	if err := e.Ctr(append([]string{"container", "create"}, args...)...).Check(); err != nil {
		return "", err
	}
	ctx = e.Context(ctx)
	created, err := e.Client().LoadContainer(ctx, id)
	if err != nil {
		return "", err
	}
	task, err := created.NewTask(ctx, cio.NullIO)
	if err != nil {
		return "", err
	}
	if _, device, err = w.Link(int(task.Pid())); err != nil {
		_, deleted := task.Delete(ctx, client.WithProcessKill)
		return "", errors.Join(err, deleted)
	}
	return device, task.Start(ctx)
}
