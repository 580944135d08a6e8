package openvpn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
)

// Process is an openvpn and its TUN. It implements link.Device, once Plan's Make has placed it.
type Process struct {
	config Config
	uid    uint32
	cmd    *exec.Cmd
	socket string        // its management socket's path
	conn   *net.UnixConn // its management connection
	said   said
	ended  chan struct{} // closed once the process has ended
	close  sync.Once

	writing sync.Mutex // held for a command to the process

	mu        sync.Mutex
	to        netip.AddrPort // which endpoint is meant
	where     *enter.Namespace
	name      string // of the TUN in there
	addresses []netip.Prefix
	connected time.Time
	fault     string
	in        uint64        // bytes from the gateway
	changed   chan struct{} // closed, and made anew, with each change of state
}

var _ link.Device = (*Process)(nil)

// startDeadline bounds how long openvpn may take until it asks what to do.
const startDeadline = 5 * time.Second

// Start runs openvpn and waits until its gateway has let it in, or ctx ends. The error says why not, as far as openvpn or the gateway
// told. ready is called with the process's number before it reaches for the network.
func Start(ctx context.Context, c Config, ready func(pid int) error) (*Process, error) {
	p := &Process{config: c, to: c.Endpoint, uid: chooseUID(), ended: make(chan struct{}), changed: make(chan struct{})}
	var err error
	if p.name, err = newTUN(p.uid); err != nil {
		return nil, err
	}
	if err := p.run(ready); err != nil {
		return nil, errors.Join(err, removeTUN(nil, p.name))
	}
	err = p.await(ctx)
	if err == nil {
		err = p.shelve()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// run starts the process and has it begin.
func (p *Process) run(ready func(pid int) error) error {
	p.socket = filepath.Join(private, p.name)
	var l *net.UnixListener
	err := launch(func() (err error) {
		text := p.config.text(p.name, p.socket)
		if p.cmd, err = command(p.uid, strings.NewReader(text)); err != nil {
			return err
		}
		p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
		if l, err = listen(p.socket, p.uid); err != nil {
			return err
		}
		if err = p.cmd.Start(); err != nil {
			return errors.Join(fmt.Errorf("start openvpn: %w", err), l.Close(), os.Remove(p.socket))
		}
		return nil
	})
	if err != nil {
		return err
	}
	go func() {
		_ = p.cmd.Wait() // what it has said tells more than its status
		close(p.ended)
		p.change(func() {})
		_ = l.Close()
	}()
	err = p.accept(l)
	if err == nil {
		err = ready(p.cmd.Process.Pid)
	}
	if err == nil {
		go p.listen()
		err = p.tell("log on all", "state on", "bytecount 1") // it asks for the rest
	}
	if err != nil {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if p.conn != nil {
			_ = p.conn.Close()
		}
	}
	return err
}

// accept waits for the process to come to its management socket.
func (p *Process) accept(l *net.UnixListener) error {
	defer func() {
		_ = l.Close()
		_ = launch(func() error { return os.Remove(p.socket) }) // it goes with the launcher at the latest
	}()
	if err := l.SetDeadline(time.Now().Add(startDeadline)); err != nil {
		return fmt.Errorf("openvpn's management socket: %w", err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		if why := p.said.why(); why != "" {
			return fmt.Errorf("openvpn does not begin: %s", why)
		}
		return fmt.Errorf("openvpn does not begin: %w", err)
	}
	p.conn = conn
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if failed != nil || int(peer.Pid) != p.cmd.Process.Pid {
		return errors.Join(errors.New("somebody else is at openvpn's management socket"), failed)
	}
	return nil
}

// tell sends commands.
func (p *Process) tell(commands ...string) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.conn.SetWriteDeadline(time.Now().Add(time.Second)) // a connection of ours has deadlines
	if _, err := p.conn.Write([]byte(strings.Join(commands, "\n") + "\n")); err != nil {
		return fmt.Errorf("tell openvpn: %w", err)
	}
	return nil
}

// maxLine bounds what the process says at a time.
const maxLine = 16 << 10

// listen follows what the process says until it ends.
func (p *Process) listen() {
	lines := bufio.NewScanner(p.conn)
	lines.Buffer(make([]byte, 0, 1<<10), maxLine)
	for lines.Scan() {
		if e, ok := parseEvent(strings.TrimSpace(lines.Text())); ok {
			p.hear(e)
		}
	}
	_ = p.cmd.Process.Kill() // without its supervisor it is not to go on; it may have ended
}

// hear is one event.
func (p *Process) hear(e event) {
	switch e.kind {
	case "REMOTE":
		p.mu.Lock()
		answer := remote(p.to)
		p.mu.Unlock()
		_ = p.tell(answer) // else it ends, or is ended
	case "HOLD":
		_ = p.tell("hold release")
	case "BYTECOUNT":
		if in, ok := parseBytes(e.text); ok {
			p.mu.Lock()
			p.in = in
			p.mu.Unlock()
		}
	case "STATE":
		p.enter(parseState(e.text))
	case "LOG":
		p.said.hear(logged(e.text))
	case "FATAL":
		p.said.hear(e.text)
	}
}

// enter is a new state of the process's.
func (p *Process) enter(s state) {
	p.change(func() {
		switch {
		case s.name == "CONNECTED" && s.detail == "SUCCESS":
			p.connect(s.addresses)
		case s.name == "RECONNECTING" || s.name == "EXITING":
			p.said.hear("state " + s.detail)
			why := p.said.why()
			if why == "" {
				why = clip(s.detail)
			}
			p.fault = "the connection is lost: " + why
		}
	})
}

// connect: the gateway has let the process in. mu is held.
func (p *Process) connect(given []netip.Addr) {
	var addresses []netip.Prefix
	for _, a := range given {
		if !p.config.allows(a) {
			p.fault = fmt.Sprintf("the gateway gives address %s, which is in none of the slot's addresses", a)
			return
		}
		addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	if len(addresses) == 0 {
		p.fault = "the gateway gives no address"
		return
	}
	if p.addresses != nil && !slices.Equal(p.addresses, addresses) {
		p.fault = fmt.Sprintf("the gateway gives other addresses than before: %s", addresses)
		return
	}
	p.addresses, p.connected, p.fault = addresses, time.Now(), ""
	p.said.forget()
}

// change changes what mu guards, and tells who waits.
func (p *Process) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// await waits for the gateway to let the process in.
func (p *Process) await(ctx context.Context) error {
	for {
		p.mu.Lock()
		fault, in, changed := p.fault, !p.connected.IsZero(), p.changed
		p.mu.Unlock()
		switch {
		case in:
			return nil
		case fault != "":
			return errors.New(fault)
		}
		select {
		case <-changed:
		case <-p.ended:
			return fmt.Errorf("openvpn has ended: %s", p.said.last())
		case <-ctx.Done():
			why := p.said.why()
			if why == "" {
				why = "the gateway does not answer"
			}
			return errors.New(why)
		}
	}
}

// Ended is closed once the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stats implements link.Device. Received is what came from the gateway, its signs of life included; Sent what went into the TUN.
func (p *Process) Stats() (link.Stats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := link.Stats{Handshake: p.connected, Received: p.in, Fault: p.fault}
	if p.where != nil {
		_ = p.where.Do(func() error { // a TUN that is gone has sent nothing more
			l, err := netlink.LinkByName(p.name)
			if err == nil && l.Attrs().Statistics != nil {
				s.Sent = l.Attrs().Statistics.TxBytes
			}
			return err
		})
	}
	select {
	case <-p.ended:
		s.Ended, s.Fault = true, "openvpn has ended: "+p.said.last()
	default:
	}
	return s, nil
}

// Move implements link.Device: the process connects anew, to there.
func (p *Process) Move(to netip.AddrPort) error {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
	return p.tell("signal SIGUSR1")
}

// Kind implements link.Device.
func (*Process) Kind() string { return "openvpn" }

// goodbye is how long a process may take to take leave of its gateway.
const goodbye = 3 * time.Second

// Close implements link.Device: the TUN is gone when it returns. The process ends by itself, after a word to its gateway.
func (p *Process) Close() error {
	var err error
	p.close.Do(func() {
		p.mu.Lock()
		where, name := p.where, p.name
		p.where = nil
		p.mu.Unlock()
		err = removeTUN(where, name)
		if where != nil {
			err = errors.Join(err, where.Close())
		}
		_ = p.tell("signal SIGTERM") // else it is killed
		closing.Go(func() {
			select {
			case <-p.ended:
			case <-time.After(goodbye):
				_ = p.cmd.Process.Kill() // it may have ended
				<-p.ended
			}
			_ = p.conn.Close()
		})
	})
	return err
}

// closing are processes that take leave.
var closing sync.WaitGroup

// Wait waits until all processes that were closed have ended, which takes goodbye at most.
func Wait() { closing.Wait() }
