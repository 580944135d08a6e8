package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostPackages are installed where missing: tools of the set-up and of each start, and the libraries that the unpacked
// emulator and file server load.
var hostPackages = []string{
	"kmod", "xz-utils", "e2fsprogs",
	"libaio1", "libbpf1", "libcapstone4", "libcap-ng0", "libfdt1", "libfuse3-3", "libglib2.0-0", "libgmp10", "libgnutls30",
	"libhogweed6", "libibverbs1", "libjpeg62-turbo", "libnettle8", "libnuma1", "libpixman-1-0", "libpmem1", "libpng16-16",
	"librdmacm1", "libsasl2-2", "libseccomp2", "libslirp0", "libudev1", "liburing2", "libvdeplug2", "libzstd1", "zlib1g",
}

// The suite, and the packages that are unpacked, each with the suffix of the suite it comes from. The emulator is not
// the suite's own: that one (7.2) makes guest kernels crash in most boots without hardware virtualisation. The file
// server is: newer emulators come without one.
const suite = "bookworm"

var unpacked = map[string]string{
	"qemu-system-x86": "-backports", "qemu-system-data": "-backports", "seabios": "-backports", "qemu-system-common": "",
}

// kernelMeta depends on the newest kernel for virtual machines; series is the one that this project tests on.
const kernelMeta, series = "linux-image-cloud-amd64", "linux-image-6.12."

// Setup makes the image below dir unless it is there. say is told what takes time.
func Setup(ctx context.Context, dir string, say func(string)) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("wait for another set-up: %w", err)
	}
	if err := installMissing(ctx, say); err != nil {
		return err
	}
	if _, err := Open(dir); err == nil || !errors.Is(err, ErrNone) {
		return err
	}
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the virtual machine is an amd64 one, this machine is %s", runtime.GOARCH)
	}
	say("fetching a kernel and an emulator (once)")
	work := dir + ".new"
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	packages, err := fetch(ctx, work)
	if err != nil {
		return err
	}
	if err := prepare(ctx, work); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, record), []byte(layoutLine+packages), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(work, dir)
}

// fetch downloads and unpacks the packages below work. It returns a line for each.
func fetch(ctx context.Context, work string) (string, error) {
	apt, err := privateApt(ctx, work)
	if err != nil {
		return "", err
	}
	shown, err := apt.cache(ctx, "show", kernelMeta)
	if err != nil {
		return "", err
	}
	kernel, err := kernelOf(shown)
	if err != nil {
		return "", err
	}
	wanted := []string{kernel + "/" + suite + "-backports"}
	for name, pocket := range unpacked {
		wanted = append(wanted, name+"/"+suite+pocket)
	}
	debs := filepath.Join(work, "debs")
	if err := os.Mkdir(debs, 0o755); err != nil {
		return "", err
	}
	if err := apt.download(ctx, debs, wanted); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) != len(wanted) {
		return "", fmt.Errorf("apt-get downloaded %d packages of %d", len(files), len(wanted))
	}
	slices.Sort(files)
	lines := ""
	for _, deb := range files {
		to := filepath.Join(work, "tools")
		if strings.HasPrefix(filepath.Base(deb), "linux-image-") {
			to = filepath.Join(work, "kernel")
		}
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", deb, to)); err != nil {
			return "", err
		}
		line, err := output(exec.CommandContext(ctx, "dpkg-deb", "--show", deb))
		if err != nil {
			return "", err
		}
		lines += strings.TrimSpace(line) + "\n"
	}
	return lines, errors.Join(os.RemoveAll(debs), os.RemoveAll(apt.dir))
}

// kernelOf finds the kernel that the meta package stands for.
func kernelOf(shown string) (string, error) {
	for line := range strings.Lines(shown) {
		after, ok := strings.CutPrefix(line, "Depends: ")
		for dep := range strings.SplitSeq(after, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(dep), " ")
			if ok && strings.HasPrefix(name, "linux-image-") {
				if !strings.HasPrefix(name, series) {
					return "", fmt.Errorf("the kernel of %s-backports is %s: this project tests on %s*; raise series in test/vm/debian", suite, name, series)
				}
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("%s-backports has no %s", suite, kernelMeta)
}

// prepare makes of the unpacked packages what a machine starts from.
func prepare(ctx context.Context, work string) error {
	images, err := filepath.Glob(filepath.Join(work, "kernel/boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("the kernel package holds %d kernels", len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	image, err := os.ReadFile(images[0])
	if err != nil {
		return err
	}
	kernel, err := vmlinux(image)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "vmlinux"), kernel, 0o644); err != nil {
		return err
	}
	// Unpacked here, once, and not by the guest at each boot.
	root := filepath.Join(work, "kernel")
	unpack := fmt.Sprintf(`find "$1" -name '*.ko.xz' -print0 | xargs -0r -n 64 -P %d xz -d`, runtime.NumCPU())
	if _, err := output(exec.CommandContext(ctx, "sh", "-c", unpack, "sh", root)); err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, "/sbin/depmod", "-b", root, release)); err != nil {
		return err
	}
	modules, err := moduleEntries(filepath.Join(root, "lib/modules", release))
	if err != nil {
		return err
	}
	initrd, err := Archive(modules)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "initrd"), initrd, 0o644); err != nil {
		return err
	}
	// A library that a newer package needs shows here, not as a machine that does not start.
	for _, tool := range []string{"tools/usr/bin/qemu-system-x86_64", "tools/usr/lib/qemu/virtiofsd"} {
		if _, err := output(exec.CommandContext(ctx, filepath.Join(work, tool), "--version")); err != nil {
			return err
		}
	}
	return nil
}
