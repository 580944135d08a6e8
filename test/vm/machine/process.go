package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"forefend.dev/forefend/test/vm/debian"
	"forefend.dev/forefend/test/vm/guest"
)

// processes are the emulator and the file server of one boot.
type processes struct {
	stop  context.CancelFunc
	all   sync.WaitGroup
	ended chan struct{} // closed once the emulator has ended
}

// end kills what still runs and waits for it.
func (p *processes) end() {
	p.stop()
	p.all.Wait()
}

// said is what a boot that failed left to read.
func (p *processes) said(dir string) string {
	var b strings.Builder
	for _, name := range []string{"emulator.log", "files.log", "console.log"} {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		const most = 4000
		if text = text[max(0, len(text)-most):]; len(text) > 0 {
			fmt.Fprintf(&b, "== %s\n%s\n", name, strings.TrimSpace(string(text)))
		}
	}
	return b.String()
}

// start starts the file server and the emulator.
func (m Machine) start(ctx context.Context, dir string) (_ *processes, err error) {
	ctx, stop := context.WithCancel(ctx)
	p := &processes{stop: stop, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	if err := m.initrd(filepath.Join(dir, "initrd")); err != nil {
		return nil, err
	}
	if err := m.disk(ctx, dir); err != nil {
		return nil, err
	}
	if err := m.shareRoot(ctx, p, dir); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "emulator.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, m.Image.Emulator[0], append(m.Image.Emulator[1:len(m.Image.Emulator):len(m.Image.Emulator)], m.emulatorArgs(dir)...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.all.Go(func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.ended)
	})
	return p, nil
}

// initrd writes the image's RAM disk with ourselves as the first process.
func (m Machine) initrd(path string) error {
	cached, err := os.Open(m.Image.Initrd)
	if err != nil {
		return err
	}
	defer cached.Close()
	self, err := os.ReadFile(m.Self)
	if err != nil {
		return err
	}
	archive, err := debian.Archive([]debian.Entry{
		{Name: "dev", Mode: os.ModeDir | 0o755},
		{Name: "dev/console", Mode: os.ModeDevice | os.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: os.ModeDevice | os.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Name: strings.TrimPrefix(guest.Path, "/"), Mode: 0o755, Data: self},
	})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, cached); err == nil {
		_, err = f.Write(archive)
	}
	return errors.Join(err, f.Close())
}

// disk makes an empty file system in a sparse file.
func (m Machine) disk(ctx context.Context, dir string) error {
	if m.Disk == 0 {
		return nil
	}
	path := filepath.Join(dir, "disk")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(m.Disk), f.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	return nil
}

// shareRoot starts the file server for the host's files, on a socket that listens already.
func (m Machine) shareRoot(ctx context.Context, p *processes, dir string) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "files"), Net: "unix"})
	if err != nil {
		return err
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false) // the server has it
	socket, err := listener.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	log, err := os.Create(filepath.Join(dir, "files.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, m.Self, ShareCommand, root, m.Visible, m.Image.FileServer)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.all.Go(func() { _ = cmd.Wait() })
	return nil
}

// emulatorArgs is the machine itself.
func (m Machine) emulatorArgs(dir string) []string {
	in := func(name string) string { return filepath.Join(dir, name) }
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-machine", "pc,memory-backend=ram",
		"-accel", "tcg,thread=multi,tb-size=512",
		"-cpu", "qemu64", // what a newer one has costs more to emulate than it saves
		"-smp", fmt.Sprint(m.CPUs), "-m", fmt.Sprintf("%dM", m.Memory),
		// The file server reads and writes the guest's memory.
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", m.Memory),
		"-chardev", "socket,id=files,path=" + in("files"),
		"-device", "vhost-user-fs-pci,chardev=files,queue-size=256,tag=" + guest.RootTag,
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=control,path=" + in("control"),
		"-device", "virtserialport,chardev=control,name=" + guest.Port,
		"-serial", "file:" + in("console.log"),
		"-kernel", m.Image.Kernel, "-initrd", in("initrd"), "-append", kernelLine,
	}
	if m.Disk > 0 {
		args = append(args, "-drive", "if=none,id=disk,format=raw,cache=unsafe,file="+in("disk"),
			"-device", "virtio-blk-pci,drive=disk")
	}
	return args
}

// kernelLine: what a stock Debian has on, cgroup v1 off, and nothing that only costs time under emulation. A panic
// ends the machine at once. On a busy host the kernel's check of the timer fails and would panic.
const kernelLine = "console=ttyS0 quiet panic=-1 oops=panic no_timer_check mitigations=off nokaslr cgroup_no_v1=all psi=1 " +
	"lsm=landlock,lockdown,yama,apparmor,bpf"
