package shim

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/shutdown"

	"forefend.dev/forefend/shim/internal/bootstrap"
)

func TestForgetSocket(t *testing.T) {
	for name, test := range map[string]struct {
		replaced bool
		address  string // in the bundle
		stays    bool
	}{
		"ours":                    {},
		"of the next shim":        {replaced: true, stays: true},
		"which upstream will":     {address: "unix://PATH", stays: true},
		"though upstream has one": {address: "unix:///other"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			t.Chdir(t.TempDir())
			if test.address != "" {
				if err := os.WriteFile(bootstrap.AddressFile, []byte(strings.Replace(test.address, "PATH", path, 1)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.SetUnlinkOnClose(false)
			f, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, sd := shutdown.WithShutdown(t.Context())
			forgetSocket(sd, socketOf(int(f.Fd())))
			if test.replaced {
				if err := os.Rename(path, path+".old"); err != nil { // keeps the inode from being used again
					t.Fatal(err)
				}
				next, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer next.Close()
			}
			sd.Shutdown()
			<-sd.Done()
			if _, err := os.Lstat(path); (err == nil) != test.stays {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	_, sd := shutdown.WithShutdown(t.Context())
	forgetSocket(sd, socketOf(-1)) // nothing to forget
}
