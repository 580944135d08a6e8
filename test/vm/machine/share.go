package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ShareCommand is the first argument that makes the binary Machine.Self become the file server by Share.
const ShareCommand = "share-root"

// Share is what ShareCommand does: in a mount namespace of its own it binds this machine's root read-only to dir and
// becomes the file server. Mounts on top of the root are left out (processes, devices, other people's containers),
// except those that the path visible lies on. It returns only on error.
func Share(dir, visible, server string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the namespace is the thread's, and that of the program it becomes
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace (this needs root): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make its mounts private: %w", err)
	}
	for _, point := range append([]string{"/"}, pointsOf(string(mounts), visible)...) {
		to := filepath.Join(dir, point)
		if err := unix.Mount(point, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", point, err)
		}
		if err := unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", to, err)
		}
	}
	// The first extra descriptor of our process is the listening socket. What this machine holds open at most is the
	// server's limit too: raising it takes a privilege that need not be there.
	args := []string{server, "--fd=3", "-f", "-o", "source=" + dir + ",cache=always,xattr,sandbox=chroot", "--thread-pool-size=2", "--rlimit-nofile=0"}
	return fmt.Errorf("start %s: %w", server, unix.Exec(server, args, os.Environ()))
}

// pointsOf lists the mount points other than the root that path lies on, the outermost first.
func pointsOf(mountinfo, path string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 || f[4] == "/" {
			continue
		}
		if point := unescape(f[4]); path == point || strings.HasPrefix(path, point+"/") {
			points = append(points, point)
		}
	}
	return points
}

// unescape resolves mountinfo's octal escapes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
