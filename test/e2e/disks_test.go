package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// TestDiskWeight gives containers a weight at disks, or says that this kernel has none.
func TestDiskWeight(t *testing.T) {
	h := newHost(t)
	if h.ioWeight(t, h.start(t, sh("sleep 1000"))) == 0 {
		weightIsRefused(t, h)
		return
	}
	weightIsSet(t, h)
}

// TestDiskRates limits what containers read from and write to a disk: from the start and while they run.
func TestDiskRates(t *testing.T) {
	root.Test(t)
	node, disk := loopDisk(t)
	h := newHost(t, harness.WithConfig(fmt.Sprintf(
		"[defaults]\n\"io.write\" = [\"%s=8Mi\"]\n[guardrails]\n\"io.write\" = [\"%[1]s=16Mi\"]\n", disk)))
	t.Run("set", func(t *testing.T) { ratesAreSet(t, h, disk) })
	t.Run("slow", func(t *testing.T) { writingIsSlow(t, h, node, disk) })
	t.Run("update", func(t *testing.T) { ratesHoldAcrossUpdate(t, h, disk) })
	t.Run("refused", func(t *testing.T) { ratesAreRefused(t, h, disk) })
}

// loopDisk makes a disk of a file: its node and its numbers. It is gone when the last who has it open closes it.
func loopDisk(t *testing.T) (node, disk string) {
	t.Helper()
	_ = exec.Command("modprobe", "loop").Run() // it may be built in
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) { // neither module nor built in
		t.Skipf("this machine has no loop devices: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	backing, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	if err := backing.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	const tries = 20 // another may take the free one first
	for range tries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		node = "/dev/loop" + strconv.Itoa(n)
		f, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(f.Fd()), &config)
		if errors.Is(err, unix.EBUSY) {
			f.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		numbers, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(node), "dev"))
		if err != nil {
			t.Fatal(err)
		}
		return node, strings.TrimSpace(string(numbers))
	}
	t.Fatal("no loop device is to be had")
	return "", ""
}

// rate reads from the kernel how many bytes per second of a disk a container may read or write; 0 is no limit.
func (h *host) rate(t testing.TB, id, verb, disk string) int64 {
	t.Helper()
	dir, version := cgroupOf(t, int(h.task(t, id).Pid()), "blkio")
	file, word := "blkio.throttle."+verb+"_bps_device", ""
	if version == 2 {
		file, word = "io.max", verb[:1]+"bps="
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		for _, w := range f[1:] {
			if n, err := strconv.ParseInt(strings.TrimPrefix(w, word), 10, 64); f[0] == disk && strings.HasPrefix(w, word) && err == nil {
				return n
			}
		}
	}
	return 0
}

func (h *host) wantRates(t *testing.T, id, disk string, read, write int64) {
	t.Helper()
	if r, w := h.rate(t, id, "read", disk), h.rate(t, id, "write", disk); r != read || w != write {
		t.Errorf("the kernel has %d bytes per second to read and %d to write, want %d and %d", r, w, read, write)
	}
}

// aDisk is the numbers of any disk of this machine, empty where it has none.
func aDisk(t testing.TB) string {
	t.Helper()
	all, err := filepath.Glob("/sys/block/*/device/../dev") // those of files and of memory have no device
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if numbers, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(numbers))
		}
	}
	return ""
}

// ioWeight reads from the kernel what a container weighs at disks, as io.weight has it; 0: it has no such thing.
func (h *host) ioWeight(t testing.TB, id string) int64 {
	t.Helper()
	dir, version := cgroupOf(t, int(h.task(t, id).Pid()), "blkio")
	files := []string{"blkio.weight", "blkio.bfq.weight"}
	if version == 2 {
		files = []string{"io.bfq.weight", "io.weight"}
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		words := strings.Fields(strings.TrimPrefix(string(text), "default "))
		n, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if file == "io.weight" && n != 100 { // the default; else from 1 to 10,000
			n = 10 + (n-1)*990/9999
		}
		return n
	}
	return 0
}

// weightIsSet: from the start, while it runs, across an update by runc, and back.
func weightIsSet(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--annotation", "forefend.dev/io.weight=300"))
	if has := h.ioWeight(t, id); has != 300 {
		t.Fatalf("it starts with %d", has)
	}
	want := func(n int64) {
		t.Helper()
		if has := h.ioWeight(t, id); has != n {
			t.Errorf("the kernel has %d, want %d", has, n)
		}
	}
	h.adjust(t, "set", id, "io.weight=50", "--reason", "ticket 4713")
	h.explain(t, id).want(t, "io.weight", "50", "operator")
	want(50)
	if err := h.update(t, id, memory(64<<20)); err != nil {
		t.Fatal(err)
	}
	want(50)
	h.adjust(t, "set", id, "io.weight=unlimited")
	want(100)
	h.adjust(t, "reset", id)
	want(300)
	for setting, words := range map[string]string{"io.weight=5": "is not a whole number from 10 to 1000", "io.weight=1001": "is not a whole number from 10 to 1000"} {
		if r := h.Forefend("set", id, setting); r.Code != 1 || !strings.Contains(strings.Join(strings.Fields(r.Stdout+r.Stderr), " "), words) {
			t.Errorf("set %s: exit status %d, %s%s", setting, r.Code, r.Stdout, r.Stderr)
		}
	}
}

// weightIsRefused where the kernel has none.
func weightIsRefused(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000"))
	const words = "cannot be given a weight at disks"
	if r := h.Forefend("set", id, "io.weight=50"); r.Code != 1 || !strings.Contains(strings.Join(strings.Fields(r.Stdout+r.Stderr), " "), words) {
		t.Errorf("exit status %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := h.run(sh("true", "--annotation", "forefend.dev/io.weight=50")); r.Code == 0 || !strings.Contains(r.Stderr, words) {
		t.Errorf("at the start: exit status %d, %s", r.Code, r.Stderr)
	}
}

func ratesAreSet(t *testing.T, h *host, disk string) {
	id := h.start(t, sh("sleep 1000", "--annotation", "forefend.dev/io.read="+disk+"=2Mi"))
	d := h.explain(t, id)
	d.want(t, "io.write/"+disk, "8 MiB/s", "default")
	d.want(t, "io.read/"+disk, "2 MiB/s", "request")
	h.wantRates(t, id, disk, 2<<20, 8<<20) // by runc
	h.adjust(t, "set", id, "io.write/"+disk+"=1Mi", "pids=50", "--reason", "ticket 4712")
	h.explain(t, id).want(t, "io.write/"+disk, "1 MiB/s", "operator")
	h.wantRates(t, id, disk, 2<<20, 1<<20)
	h.adjust(t, "set", id, "io.write="+disk+"=12Mi", "io.read/"+disk+"=unlimited")
	h.wantRates(t, id, disk, 0, 12<<20)
	h.adjust(t, "rollback", id)
	h.wantRates(t, id, disk, 2<<20, 1<<20)
	h.adjust(t, "unset", id, "io.write")
	h.wantRates(t, id, disk, 2<<20, 8<<20)
	if p := h.limit(t, id, "pids"); p != 50 {
		t.Errorf("the kernel has pids %d", p)
	}
	h.adjust(t, "reset", id)
	h.wantRates(t, id, disk, 2<<20, 8<<20)
}

// writingIsSlow: 2 MiB at 1 MiB/s cannot take much less than two seconds, however fast the machine.
func writingIsSlow(t *testing.T, h *host, node, disk string) {
	id := h.start(t, sh("sleep 1000", "--device", node))
	seconds := func() float64 {
		t.Helper()
		r := h.exec(id, "sh", "-c", "cut -d' ' -f1 /proc/uptime; dd if=/dev/zero of="+node+" bs=64k count=32 oflag=direct 2>/dev/null && cut -d' ' -f1 /proc/uptime")
		f := strings.Fields(r.Stdout)
		if r.Code != 0 || len(f) != 2 {
			t.Fatal(r)
		}
		from, err := strconv.ParseFloat(f[0], 64)
		to, err2 := strconv.ParseFloat(f[1], 64)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return to - from
	}
	before := seconds()
	h.adjust(t, "set", id, "io.write/"+disk+"=1Mi")
	slow := seconds()
	h.adjust(t, "set", id, "io.write/"+disk+"=16Mi")
	after := seconds()
	t.Logf("2 MiB: %.2f s at 8 MiB/s, %.2f s at 1 MiB/s, %.2f s at 16 MiB/s", before, slow, after)
	if slow < 1.5 {
		t.Errorf("2 MiB at 1 MiB/s took %.2f s", slow)
	}
}

// ratesHoldAcrossUpdate: an update goes through runc, which writes again what it created the container with.
func ratesHoldAcrossUpdate(t *testing.T, h *host, disk string) {
	id := h.start(t, sh("sleep 1000", "--memory-limit=134217728"))
	h.adjust(t, "set", id, "io.write/"+disk+"=1Mi", "io.read/"+disk+"=3Mi")
	if err := h.update(t, id, memory(64<<20)); err != nil {
		t.Fatal(err)
	}
	h.wantRates(t, id, disk, 3<<20, 1<<20)
	// What a client asks for is a request like any other: it yields to the operator.
	number := strings.Split(disk, ":")
	major, _ := strconv.ParseInt(number[0], 10, 64)
	minor, _ := strconv.ParseInt(number[1], 10, 64)
	throttle := specs.LinuxThrottleDevice{Rate: 5 << 20}
	throttle.Major, throttle.Minor = major, minor
	block := &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle}}
	if err := h.update(t, id, &specs.LinuxResources{BlockIO: block}); err != nil {
		t.Fatal(err)
	}
	h.wantRates(t, id, disk, 3<<20, 1<<20)
	h.adjust(t, "reset", id)
	h.explain(t, id).want(t, "io.read/"+disk, "5 MiB/s", "request")
	h.wantRates(t, id, disk, 5<<20, 8<<20)
	if m := h.limit(t, id, "memory"); m != 64<<20 {
		t.Errorf("the kernel has memory %d", m)
	}
}

func ratesAreRefused(t *testing.T, h *host, disk string) {
	id := h.start(t, sh("sleep 1000"))
	pids := h.limit(t, id, "pids")
	for setting, words := range map[string]string{
		"io.write/" + disk + "=32Mi": "config.toml [guardrails] holds it to 16 MiB/s",
		"io.write/4095:77=1Mi":       "there is no disk 4095:77 on this machine",
		"io.write/sda=1Mi":           "is not the major and minor number of a disk",
		"io.read/" + disk + "=fast":  "is not a number of bytes per second",
	} {
		r := h.Forefend("set", id, setting, "pids=40")
		if text := strings.Join(strings.Fields(r.Stdout+r.Stderr), " "); r.Code != 1 || !strings.Contains(text, words) {
			t.Errorf("set %s: exit status %d, %q lacks %q", setting, r.Code, text, words)
		}
		h.wantRates(t, id, disk, 0, 8<<20)
		if p := h.limit(t, id, "pids"); p != pids { // the same dimension: all or nothing
			t.Errorf("set %s: the kernel has pids %d", setting, p)
		}
		h.Forefend("reset", id)
	}
	r := h.run(sh("true", "--annotation", "forefend.dev/io.read=4095:77=1Mi"))
	if want := "io.read/4095:77 of annotation forefend.dev/io.read: there is no disk 4095:77"; r.Code == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("a container with a disk that is not there: exit status %d, %q lacks %q", r.Code, r.Stderr, want)
	}
}
