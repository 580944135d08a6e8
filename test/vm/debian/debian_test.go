package debian

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The format is checked byte by byte; the kernel is the judge whenever a machine boots.
func TestArchive(t *testing.T) {
	got, err := Archive([]Entry{
		{Name: "dev", Mode: fs.ModeDir | 0o755},
		{Name: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Name: "init", Mode: 0o755, Data: []byte("hello")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"070701" + "00000001" + "000041ed" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
			"00000000" + "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "dev\x00" + "\x00\x00",
		"070701" + "00000002" + "000021b6" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
			"00000000" + "00000000" + "00000001" + "00000003" + "00000009" + "00000000" + "dev/null\x00" + "\x00",
		"070701" + "00000003" + "000081ed" + "00000000" + "00000000" + "00000001" + "00000000" + "00000005" +
			"00000000" + "00000000" + "00000000" + "00000000" + "00000005" + "00000000" + "init\x00" + "\x00" + "hello" + "\x00\x00\x00",
		"070701" + "00000004" + "00008000" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
			"00000000" + "00000000" + "00000000" + "00000000" + "0000000b" + "00000000" + "TRAILER!!!\x00" + "\x00\x00\x00",
	}, "")
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestArchiveRefuses(t *testing.T) {
	for _, e := range []Entry{{Name: "/init"}, {Name: ""}, {Name: "link", Mode: fs.ModeSymlink}, {Name: "s", Mode: fs.ModeSocket}} {
		if _, err := Archive([]Entry{e}); err == nil {
			t.Errorf("%+v was taken", e)
		}
	}
}

// bootImage is an x86 kernel image around a payload.
func bootImage(t *testing.T, payload []byte, size uint32) []byte {
	t.Helper()
	const sectors, gap = 2, 100
	image := make([]byte, (sectors+1)*sector+gap)
	image[setupSectors] = sectors
	copy(image[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[protocol:], 0x20f)
	binary.LittleEndian.PutUint32(image[payloadOffset:], gap)
	binary.LittleEndian.PutUint32(image[payloadLength:], uint32(len(payload)+4))
	image = append(image, payload...)
	return append(binary.LittleEndian.AppendUint32(image, size), "what follows"...)
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func TestKernelIsTakenOutOfItsImage(t *testing.T) {
	kernel := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 5000)...)
	got, err := vmlinux(bootImage(t, compressed(t, kernel), uint32(len(kernel))))
	if err != nil || !bytes.Equal(got, kernel) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	whole := bootImage(t, compressed(t, kernel), uint32(len(kernel)))
	for name, image := range map[string][]byte{
		"nothing":        nil,
		"something else": bytes.Repeat([]byte("x"), 2000),
		"cut short":      whole[:len(whole)-200],
		"not zstd":       bootImage(t, []byte("\xfd7zXZ\x00rest"), 9),
		"damaged":        bootImage(t, compressed(t, kernel)[:20], uint32(len(kernel))),
		"no ELF":         bootImage(t, compressed(t, kernel[1:]), uint32(len(kernel)-1)),
	} {
		if got, err := vmlinux(image); err == nil {
			t.Errorf("%s: took %d bytes for a kernel", name, len(got))
		}
	}
}

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/a.ko:
kernel/fs/virtiofs.ko: kernel/fs/fuse.ko kernel/drivers/virtio.ko
kernel/fs/fuse.ko:
kernel/drivers/virtio.ko:
kernel/drivers/virtio-blk.ko: kernel/drivers/virtio.ko
`
	const builtin = "kernel/fs/ext4.ko\nkernel/drivers/virtio_pci.ko\n"
	got, err := loadOrder(dep, builtin, []string{"virtio_pci", "virtiofs", "virtio_blk", "ext4"})
	want := []string{"kernel/drivers/virtio.ko", "kernel/fs/fuse.ko", "kernel/fs/virtiofs.ko", "kernel/drivers/virtio-blk.ko"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := loadOrder(dep, builtin, []string{"overlay"}); err == nil {
		t.Error("a module that is nowhere is not missed")
	}
}

func TestSourceList(t *testing.T) {
	got, err := sourceList("http://a.example/security bookworm-security main\nhttp://b.example/debian bookworm contrib\nhttp://b.example/debian bookworm main\nhttp://c.example/debian bookworm main\n")
	key := "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
	if want := "deb " + key + "http://b.example/debian bookworm main\ndeb " + key + "http://b.example/debian bookworm-backports main\n"; err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := sourceList("http://b.example/debian trixie main\n"); err == nil {
		t.Error("another release is not refused")
	}
}

func TestKernelOf(t *testing.T) {
	for _, c := range []struct{ shown, want string }{
		{"Package: linux-image-cloud-amd64\nDepends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)\n\nPackage: x\nDepends: linux-image-6.12.1\n", "linux-image-6.12.95+deb12-cloud-amd64"},
		{"Depends: initramfs-tools, linux-image-6.12.3-cloud-amd64\n", "linux-image-6.12.3-cloud-amd64"},
		{"Depends: linux-image-6.16.3-cloud-amd64\n", ""}, // a kernel nobody has tested on
		{"Recommends: linux-image-6.12.3-cloud-amd64\n", ""},
		{"", ""},
	} {
		got, err := kernelOf(c.shown)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v", c.shown, got, err)
		}
	}
}

func TestMissingOf(t *testing.T) {
	var listed strings.Builder
	for _, name := range hostPackages[1:] {
		listed.WriteString(name + " installed\n")
	}
	if got := missingOf(listed.String() + hostPackages[0] + " config-files\n"); !slices.Equal(got, hostPackages[:1]) {
		t.Errorf("missing %q", got)
	}
	if got := missingOf(listed.String() + hostPackages[0] + " installed\n"); len(got) != 0 {
		t.Errorf("missing %q though all are there", got)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, ErrNone) {
		t.Errorf("an empty directory: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, record), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("layout 0\nlinux-image 1\n")
	if _, err := Open(dir); !errors.Is(err, ErrNone) {
		t.Errorf("an image of another layout: %v", err)
	}
	write(layoutLine)
	if _, err := Open(dir); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("an image without a kernel: %v", err)
	}
	modules := filepath.Join(dir, "kernel/lib/modules/6.12.1-x")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	if image, err := Open(dir); err != nil || image.Modules != modules {
		t.Errorf("%+v, %v", image, err)
	}
}

func TestOutputShowsTheComplaint(t *testing.T) {
	out, err := output(exec.Command("sh", "-c", "echo yes; echo no >&2"))
	if err != nil || out != "yes\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := output(exec.Command("sh", "-c", "echo because >&2; exit 3")); err == nil || !strings.Contains(err.Error(), "because") {
		t.Errorf("%v", err)
	}
}
