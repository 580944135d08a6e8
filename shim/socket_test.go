package shim

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/shutdown"
)

func TestForgetSocket(t *testing.T) {
	for name, replaced := range map[string]bool{"ours": false, "of the next shim": true} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
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
			if replaced {
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
			if _, err := os.Lstat(path); (err == nil) != replaced {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	_, sd := shutdown.WithShutdown(t.Context())
	forgetSocket(sd, socketOf(-1)) // nothing to forget
}
