package wg

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// class writes a code point on the packets to the gateway: on the device's own sockets, which the library shows nobody. They are found by
// their port, which is theirs alone, and stay open as long as the device.
func (u *user) class(dscp uint8) error {
	if dscp == 0 {
		return nil
	}
	text, err := u.device.IpcGet()
	if err != nil {
		return fmt.Errorf("ask a WireGuard device: %w", err)
	}
	port := 0
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			port, _ = strconv.Atoi(n) // the library's number
		}
	}
	sockets, err := boundTo(port)
	if err != nil {
		return fmt.Errorf("sockets of a WireGuard device: %w", err)
	}
	set := 0
	err = ownFiles(func(fd int, target string) error {
		if !sockets[target] {
			return nil
		}
		set++
		level, option := unix.IPPROTO_IP, unix.IP_TOS
		if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family == unix.AF_INET6 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		return unix.SetsockoptInt(fd, level, option, int(dscp)<<2)
	})
	if err == nil && set == 0 {
		err = errors.New("none was found")
	}
	if err != nil {
		return fmt.Errorf("code point of a WireGuard device's sockets: %w", err)
	}
	return nil
}

// boundTo are the UDP sockets of this thread's namespace with a local port, as descriptors' links name them (proc(5), /proc/net/udp).
func boundTo(port int) (map[string]bool, error) {
	found := make(map[string]bool)
	for _, name := range []string{"udp", "udp6"} {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // without IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 {
				continue
			}
			_, local, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(local, 16, 16); err == nil && int(n) == port {
				found["socket:["+fields[9]+"]"] = true
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// ownFiles calls f with each descriptor of this process and what it is.
func ownFiles(f func(fd int, target string) error) error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if err := f(fd, target); err != nil {
			return err
		}
	}
	return nil
}
