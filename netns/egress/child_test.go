package egress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { child.Main(m, obey) }

// patience is how long an answer may take that will come. An emulated machine takes longer: FOREFEND_EGRESS_WAIT=30s.
var patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("FOREFEND_EGRESS_WAIT")); err == nil {
		return d
	}
	return 5 * time.Second
}()

// process is a child inside.
type process struct{ *child.Process }

func (w *world) start(t testing.TB, cgroup string) *process {
	t.Helper()
	return &process{child.Start(t, w.inside, cgroup)}
}

// wants has the child do something that somebody answers by this name.
func (p *process) wants(t testing.TB, answer string, words ...string) {
	t.Helper()
	if got, err := p.Ask(t, words...); err != nil || got != answer {
		t.Errorf("%v: %q, %v; want %q", words, got, err, answer)
	}
}

// fails has the child try something that must not work.
func (p *process) fails(t testing.TB, words ...string) {
	t.Helper()
	if got, err := p.Ask(t, append(words, "soon")...); err == nil {
		t.Errorf("%v: went through, to %q", words, got)
	}
}

// obey does what a test tells a child to.
func obey(words []string) (string, error) {
	verb, arg := words[0], words[1]
	options := map[string]string{}
	for _, w := range words[2:] {
		key, value, _ := strings.Cut(w, "=")
		options[key] = value
	}
	switch verb {
	case "listen": // address, as=NAME: answer everybody with a name
		l, err := net.Listen("tcp", arg)
		if err != nil {
			return "", err
		}
		go answer(l, options["as"])
		return "", nil
	case "tcp":
		c, err := dial("tcp", arg, options)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, ok := options["soon"]; ok {
			return hearWithin(c, 200*time.Millisecond)
		}
		return hear(c)
	case "fast": // TCP Fast Open
		return fast(netip.MustParseAddrPort(arg))
	case "uring": // io_uring
		return uring(netip.MustParseAddrPort(arg), options)
	case "bulk": // address n=BYTES: as many there and back
		n, err := strconv.Atoi(options["n"])
		if err != nil {
			return "", err
		}
		c, err := dial("tcp", arg, options)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return bulk(c, n)
	case "bulks": // address n=BYTES flows=CONNECTIONS: each as bulk, all at once; who answered
		return bulks(arg, options)
	case "flood": // address n=CONNECTIONS for=DURATION: as much as goes; begin: in the background, until the child ends
		if _, ok := options["begin"]; ok {
			go func() { _ = flood(arg, options) }() // a test sees whether anything comes of it
			return "", nil
		}
		return "", flood(arg, options)
	case "echo": // address n=TIMES: the median time in µs until a byte comes back
		return echo(arg, options)
	case "udp":
		c, err := dial("udp", arg, options)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := c.Write([]byte("who")); err != nil {
			return "", err
		}
		if _, ok := options["soon"]; ok {
			return hearWithin(c, 200*time.Millisecond)
		}
		return hear(c)
	case "intercept": // port mark=MARK: be the interceptor, by that way
		n, err := strconv.Atoi(arg)
		if err != nil {
			return "", err
		}
		return "", intercepting(n, options)
	case "seen": // what the interceptor was asked since the last time
		return interceptor.contexts(), nil
	case "sh": // a script
		return script(arg)
	case "lookup": // server name=NAME network=NETWORK
		return lookUp(arg, options)
	case "median": // server query=BASE64 n=COUNT
		return median(arg, options)
	case "syn": // address from=ADDRESS: a segment of one's own making, by a raw socket
		return "", syn(netip.MustParseAddrPort(arg), options)
	case "frame": // device: a frame by a packet socket, with or without a queue
		return "", frame(arg, options)
	}
	return "", fmt.Errorf("unknown: %v", words)
}

// dial opens a socket with options: mark, dev (SO_BINDTODEVICE), mapped (an IPv6 socket for an IPv4 address).
func dial(network, to string, options map[string]string) (net.Conn, error) {
	_, mapped := options["mapped"]
	if mapped {
		a := netip.MustParseAddrPort(to)
		return mappedConn(netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port()))
	}
	limit := patience / 3
	if _, ok := options["soon"]; ok { // what it sends at first is all that a test looks for
		limit = 200 * time.Millisecond
	}
	if _, ok := options["flows"]; ok { // many at once
		limit = 6 * patience
	}
	d := net.Dialer{Timeout: limit, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if e := raw.Control(func(fd uintptr) { err = configure(int(fd), options) }); e != nil {
			return e
		}
		return err
	}}
	return d.Dial(network, to)
}

func configure(fd int, options map[string]string) error {
	if mark, ok := options["mark"]; ok {
		n, err := strconv.ParseUint(mark, 0, 32)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(n)); err != nil {
			return err
		}
	}
	if tos, ok := options["tos"]; ok {
		n, err := strconv.Atoi(tos)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, n); err != nil {
			return err
		}
	}
	if device, ok := options["dev"]; ok {
		return unix.BindToDevice(fd, device)
	}
	return nil
}

// mappedConn connects an IPv6 socket to ::ffff:a.b.c.d, which package net would make an IPv4 socket for.
func mappedConn(to netip.AddrPort) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "mapped")
	defer f.Close()
	limit := unix.NsecToTimeval(int64(patience / 3))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// fast sends data with the SYN.
func fast(to netip.AddrPort) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "fast")
	defer f.Close()
	limit := unix.NsecToTimeval(int64(patience / 6))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return "", err
	}
	if err := unix.Sendto(fd, []byte("who"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return "", err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return hear(c)
}

// hear reads a name.
func hear(c net.Conn) (string, error) { return hearWithin(c, patience/3) }

func hearWithin(c net.Conn, limit time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// answer tells everybody its name, and sends back what they say.
func answer(l net.Listener, name string) {
	network.Serve(l, func(c net.Conn) {
		_, _ = fmt.Fprintln(c, name)
		_, _ = io.Copy(c, c)
	})
}

// bulks is bulk by several connections at once.
func bulks(to string, options map[string]string) (name string, err error) {
	n, err := strconv.Atoi(options["n"])
	if err != nil {
		return "", err
	}
	flows, err := strconv.Atoi(options["flows"])
	if err != nil {
		return "", err
	}
	type end struct {
		name string
		err  error
	}
	ends := make(chan end, flows)
	for range flows {
		go func() {
			c, err := dial("tcp", to, options)
			if err != nil {
				ends <- end{err: err}
				return
			}
			defer c.Close()
			name, err := bulk(c, n)
			ends <- end{name, err}
		}()
	}
	for range flows {
		e := <-ends
		name, err = e.name, errors.Join(err, e.err)
	}
	return name, err
}

// bulk sends n bytes and compares what comes back.
func bulk(c net.Conn, n int) (string, error) {
	if err := c.SetDeadline(time.Now().Add(6 * patience)); err != nil {
		return "", err
	}
	r := bufio.NewReader(c)
	name, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	sent := make([]byte, n)
	for i := range sent {
		sent[i] = byte(i * 2654435761 >> 13)
	}
	go func() { _, _ = c.Write(sent) }() // an error is that of the reader, too
	got := make([]byte, n)
	if _, err := io.ReadFull(r, got); err != nil {
		return "", err
	}
	if !bytes.Equal(sent, got) {
		return "", errors.New("other bytes came back")
	}
	return strings.TrimSpace(name), nil
}

// syn sends a first segment that no TCP made.
func syn(to netip.AddrPort, options map[string]string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := configure(fd, options); err != nil {
		return err
	}
	b := segment(to.Port())
	return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
}

// segment is a TCP header with a flag: SYN. Whoever counts packets does not mind its sum.
func segment(port uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 4242)
	binary.BigEndian.PutUint16(b[2:], port)
	b[12], b[13] = 5<<4, 2
	return b
}

// frame sends a datagram to 198.51.100.1 that begins at the Ethernet header, or the IP header on a tunnel.
func frame(device string, options map[string]string) error {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := configure(fd, options); err != nil {
		return err
	}
	if _, ok := options["bypass"]; ok {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
	}
	b := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 99, 0, 2, 198, 51, 100, 1}, segment(7777)...)
	return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{
		Protocol: 0x0008, Ifindex: i.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	})
}
