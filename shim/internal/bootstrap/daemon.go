package bootstrap

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// AddressFile is where a daemon before 2.0 looks, in the bundle, for the address
// of a shim it has to find again after a restart. Without it the daemon takes the
// shim for dead and kills its containers.
const AddressFile = "address"

// jsonResult is what a shim answers a daemon from 2.0 to 2.2.
type jsonResult struct {
	Version  int    `json:"version"` // of the task API
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// writeAddress writes AddressFile in one piece: the daemon may be killed, and
// started again, at any time.
func writeAddress(address string) error {
	f, err := os.CreateTemp(".", "."+AddressFile+"-")
	if err != nil {
		return fmt.Errorf("leave the shim's address in the bundle: %w", err)
	}
	defer os.Remove(f.Name()) // once renamed it is not there
	_, err = f.WriteString(address)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), AddressFile)
	}
	if err != nil {
		return fmt.Errorf("leave the shim's address in the bundle: %w", err)
	}
	return nil
}

// The module of containerd from 2.0 on, and the one before.
const containerd2 = "github.com/containerd/containerd/v2"

// readsJSON reports whether the daemon that started this process is containerd 2
// (one that sends bootstrap parameters does not get here). No flag or variable
// tells: 1.7 and 2.0 start a shim alike, but 1.7 refuses JSON with an API above 2, and 2.0
// treats a shim that has only an address as one without pods. So the program that runs in the parent
// process is asked, not the file of its name: that may be a later one. What
// cannot be told is 1.x, which every daemon can read.
var readsJSON = func() bool {
	info, err := buildinfo.ReadFile(filepath.Join("/proc", fmt.Sprint(os.Getppid()), "exe"))
	return err == nil && ofContainerd2(info)
}

// ofContainerd2 reports whether a program is containerd 2, or has it built in.
func ofContainerd2(info *debug.BuildInfo) bool {
	if info.Path == containerd2 || strings.HasPrefix(info.Path, containerd2+"/") || info.Main.Path == containerd2 {
		return true
	}
	for _, dep := range info.Deps {
		if dep.Path == containerd2 {
			return true
		}
	}
	return false
}
