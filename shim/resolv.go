package shim

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	resolvConf     = "/etc/resolv.conf"
	maxResolvConf  = 64 << 10 // bytes that are read of it
	maxNameServers = 3        // resolv.conf(5), MAXNS; musl has as many
)

// nameServers are those that a container is given by a mounted resolv.conf(5), as containerd's CRI plugin and nerdctl do. Those on loopback never leave.
func nameServers(mounts []specs.Mount) []string {
	i := slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == resolvConf })
	if i < 0 {
		return nil
	}
	f, err := os.OpenFile(mounts[i].Source, os.O_RDONLY|unix.O_NONBLOCK, 0) // not to wait for who writes to a pipe
	if err != nil {
		return nil // runc will say so, if it cannot do without
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(f, maxResolvConf)) // what can be read counts
	return parseResolvConf(text)
}

func parseResolvConf(text []byte) (servers []string) {
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		at, err := netip.ParseAddr(words[1])
		if err != nil {
			continue
		}
		at = at.Unmap().WithZone("")
		if len(servers) < maxNameServers && !at.IsLoopback() && !slices.Contains(servers, at.String()) {
			servers = append(servers, at.String())
		}
	}
	return servers
}
