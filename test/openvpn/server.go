package openvpn

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/network"
)

// Server is an openvpn that gives its clients addresses of 10.9.0.0/24, from .2 on.
type Server struct {
	At netip.AddrPort // on loopback

	config string
	in     *enter.Namespace
	device string
	own    []string
	cmd    *exec.Cmd
	log    *log
}

// log is what a process says, for a test that fails.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Serve starts a server whose TUN is in a namespace, with these addresses, where it is gone with the test. crypt is the key of
// tls-crypt, nil for none; more are further lines of its configuration.
func Serve(t testing.TB, in *enter.Namespace, a *Authority, id Identity, crypt []byte, own []string, more ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("openvpn"); err != nil {
		t.Fatalf("%v: make tools installs it", err)
	}
	s := &Server{in: in, own: own, device: fmt.Sprintf("fs%x", time.Now().UnixNano()&0xffffffff)}
	probe, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s.At = probe.LocalAddr().(*net.UDPAddr).AddrPort()
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	lines := append([]string{
		"mode server", "tls-server", "proto udp", "local 127.0.0.1", fmt.Sprintf("port %d", s.At.Port()), "dev-type tun", "dev " + s.device, "topology subnet",
		"ifconfig 10.9.0.1 255.255.255.0", "ifconfig-pool 10.9.0.2 10.9.0.60 255.255.255.0", `push "topology subnet"`, `push "route-gateway 10.9.0.1"`,
		`push "redirect-gateway def1"`, `push "dhcp-option DNS 10.9.0.1"`, // which no client of ours takes
		"keepalive 1 10", "dh none", "ifconfig-noexec", "route-noexec", "disable-dco", "mssfix 0", "verb 3", "suppress-timestamps",
		fmt.Sprintf("<ca>\n%s</ca>\n<cert>\n%s</cert>\n<key>\n%s</key>", a.PEM, id.Cert, id.Key),
	}, more...)
	if crypt != nil {
		lines = append(lines, fmt.Sprintf("<tls-crypt>\n%s</tls-crypt>", crypt))
	}
	s.config = strings.Join(lines, "\n") + "\n"
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() && s.log != nil {
			t.Logf("the OpenVPN server said\n%s", s.log)
		}
	})
	s.Start(t)
	return s
}

// Start starts the server, again after Stop, and returns once it serves.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.log = &log{}
	s.cmd = exec.Command("openvpn", "--config", "stdin")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = strings.NewReader(s.config), s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !strings.Contains(s.log.String(), "Initialization Sequence Completed"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the OpenVPN server does not serve:\n%s", s.log)
		}
	}
	l, err := netlink.LinkByName(s.device)
	if err == nil {
		err = netlink.LinkSetNsFd(l, s.in.FD())
	}
	if err == nil {
		err = s.in.Do(func() error {
			if err := network.Up(s.device, append([]string{"10.9.0.1/24"}, s.own...)...); err != nil {
				return err
			}
			l, err := netlink.LinkByName(s.device)
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetMTU(l, 1420), netlink.LinkSetTxQLen(l, 1000))
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Stop kills the server, if it runs: its clients are not told.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(unix.SIGKILL)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Clients is how often clients were let in.
func (s *Server) Clients() int { return strings.Count(s.log.String(), "MULTI: primary virtual IP") }

// Log is what the server has said.
func (s *Server) Log() string { return s.log.String() }
