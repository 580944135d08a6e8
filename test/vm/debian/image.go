// Package debian makes and finds what a virtual machine is started from: a stock Debian kernel with its modules, and
// the emulator and file server that run it. All of it comes from Debian packages, by the sources this machine uses,
// and lives below one directory; of the machine itself only a few libraries and tools are installed.
//
// It knows nothing of what runs in the guest.
package debian

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// layout is raised when what Setup makes changes, so that an older directory is made anew.
const layout = "1"

// Image is what a machine is started from. All paths are absolute.
type Image struct {
	Kernel     string   // uncompressed
	Initrd     string   // modules to load at boot; the first process is to be appended
	Modules    string   // directory of all modules, named after the release
	Emulator   []string // command and first arguments
	FileServer string   // virtiofsd
}

// ErrNone means that there is no image of this layout yet. Open returns it.
var ErrNone = errors.New("no virtual machine is set up")

// Open finds the image that Setup made below dir.
func Open(dir string) (Image, error) {
	text, err := os.ReadFile(filepath.Join(dir, record))
	if errors.Is(err, os.ErrNotExist) || err == nil && !strings.HasPrefix(string(text), layoutLine) {
		return Image{}, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	if err != nil {
		return Image{}, err
	}
	modules, err := filepath.Glob(filepath.Join(dir, "kernel/lib/modules/*"))
	if err != nil || len(modules) != 1 {
		return Image{}, fmt.Errorf("%s holds %d kernels: remove it and set up again", dir, len(modules))
	}
	tools := filepath.Join(dir, "tools/usr")
	return Image{
		Kernel:  filepath.Join(dir, "vmlinux"),
		Initrd:  filepath.Join(dir, "initrd"),
		Modules: modules[0],
		Emulator: []string{
			filepath.Join(tools, "bin/qemu-system-x86_64"),
			"-L", filepath.Join(tools, "share/qemu"), "-L", filepath.Join(tools, "share/seabios"),
		},
		FileServer: filepath.Join(tools, "lib/qemu/virtiofsd"),
	}, nil
}

// record is the file that says from which packages an image was made. It is written last.
const record = "packages"

const layoutLine = "layout " + layout + "\n"
