package shim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNameServers(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		source string
		want   []string
	}{
		"a cluster's": {file("cluster", "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"), []string{"10.96.0.10"}},
		"several": {file("several", "# nameserver 192.0.2.9\nnameserver\t192.0.2.1 # the first\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserver ::ffff:192.0.2.2\nnameserver 192.0.2.3\n"),
			[]string{"192.0.2.1", "fe80::1", "192.0.2.2"}},
		"nobody's":    {file("nobody", "nameserver\nnameserver 127.0.0.11\nnameserver ::1\nnameserver example.com\nname server 192.0.2.1\n"), nil},
		"long":        {file("long", strings.Repeat("#\n", maxResolvConf)+"nameserver 192.0.2.1\n"), nil},
		"a pipe":      {pipe, nil},
		"missing":     {filepath.Join(dir, "missing"), nil},
		"a directory": {dir, nil},
	} {
		mounts := []specs.Mount{{Destination: "/etc/hosts", Source: pipe}, {Destination: resolvConf, Source: c.source}}
		if got := nameServers(mounts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
	if got := nameServers(nil); got != nil {
		t.Errorf("without a mount: %v", got)
	}
}
