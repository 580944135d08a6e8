package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lacking calls do on a thread on which the kernel really answers one system call with an error.
func lacking(t *testing.T, call uint32, errno unix.Errno, do func()) {
	t.Helper()
	err := onOwnThread(func() error {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		const retErrno = 0x00050000
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: retErrno | uint32(errno)},
			{Code: unix.BPF_RET | unix.BPF_K, K: retAllow},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		_, _, failed := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, 0, uintptr(unsafe.Pointer(&program)))
		runtime.KeepAlive(filter)
		if failed != 0 {
			return failed
		}
		do()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCallsThatAreMissing(t *testing.T) {
	for _, c := range []struct {
		name  string
		nr    uint32
		errno unix.Errno
		want  []string
		fix   string
	}{
		{"openat2", unix.SYS_OPENAT2, unix.ENOSYS, []string{"openat2 degraded", "pidfd_open ok"}, "Linux 5.6 or newer"},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, unix.ENOSYS, []string{"openat2 ok", "pidfd_open degraded"}, "Linux 5.3 or newer"},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, unix.EPERM, []string{"openat2 ok", "pidfd_open degraded"},
			"look for a seccomp profile or a security module around containerd that denies it"},
	} {
		var rows []Row
		lacking(t, c.nr, c.errno, func() { rows = callRows(needed) })
		if got := states(t, rows); !slices.Equal(got, c.want) {
			t.Errorf("without %s: %q, want %q", c.name, got, c.want)
		}
		if i := slices.IndexFunc(rows, func(r Row) bool { return r.Feature == c.name }); rows[i].Fix != c.fix {
			t.Errorf("%s, %v: %q", c.name, c.errno, rows[i].Fix)
		}
	}
}

func TestKernelThatLacks(t *testing.T) {
	var row Row
	lacking(t, unix.SYS_UNAME, unix.EPERM, func() { row = kernel() })
	if got := states(t, []Row{row}); got[0] != "kernel degraded" {
		t.Errorf("%q", got)
	}
	lacking(t, unix.SYS_LANDLOCK_CREATE_RULESET, unix.ENOSYS, func() { row = landlock() })
	if got := states(t, []Row{row}); got[0] != "Landlock degraded" {
		t.Errorf("%q", got)
	}
	lacking(t, unix.SYS_BPF, unix.EPERM, func() { row = bpfAttach() })
	if got := states(t, []Row{row}); got[0] != "BPF on cgroups degraded" {
		t.Errorf("%q", got)
	}
}

// Capabilities are a thread's own: dropped here, they are dropped for the probes alone.
func TestPrivilegesThatAreMissing(t *testing.T) {
	var got []string
	err := onOwnThread(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		got = states(t, []Row{privileges(), sysResource()})
		return nil
	})
	if want := []string{"privileges missing", "CAP_SYS_RESOURCE degraded"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v, want %q", got, err, want)
	}
}

func TestSeccompThatLacks(t *testing.T) {
	no := unix.EINVAL
	for _, c := range []struct {
		trial seccompTrial
		want  []string
	}{
		{seccompTrial{}, []string{"seccomp supervision ok", "seccomp SYNC_WAKE_UP ok", "seccomp WAIT_KILLABLE ok"}},
		{seccompTrial{notify: no}, []string{"seccomp supervision missing"}},
		{seccompTrial{listener: no}, []string{"seccomp supervision missing"}},
		{seccompTrial{wake: no}, []string{"seccomp supervision ok", "seccomp SYNC_WAKE_UP degraded", "seccomp WAIT_KILLABLE ok"}},
		{seccompTrial{killable: no}, []string{"seccomp supervision ok", "seccomp SYNC_WAKE_UP ok", "seccomp WAIT_KILLABLE degraded"}},
	} {
		if got := states(t, seccompRows(c.trial)); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.trial, got, c.want)
		}
	}
	var trial seccompTrial
	lacking(t, unix.SYS_SECCOMP, unix.ENOSYS, func() { trial = trySeccomp() })
	if trial.notify == nil {
		t.Errorf("a kernel without seccomp(2): %+v", trial)
	}
}

func TestCgroupsThatLack(t *testing.T) {
	for _, c := range []struct {
		mode string
		have []string
		err  error
		want []string
	}{
		{"v2", []string{"cpu", "memory", "pids", "io"}, nil, []string{"cgroups ok", "cgroup controllers ok"}},
		{"v2", []string{"cpu", "pids"}, nil, []string{"cgroups ok", "cgroup controllers missing"}},
		{"hybrid v1", []string{"cpu", "memory", "pids"}, nil, []string{"cgroups degraded", "cgroup controllers ok"}},
		{"v1", nil, errors.New("no controller is mounted"), []string{"cgroups degraded", "cgroup controllers missing"}},
		{"", nil, nil, []string{"cgroups missing"}},
	} {
		if got := states(t, cgroupReport(c.mode, c.have, c.err)); !slices.Equal(got, c.want) {
			t.Errorf("%q with %v: %q, want %q", c.mode, c.have, got, c.want)
		}
	}
}

func TestLimitsThatAreLow(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(r Row, want State) {
		t.Helper()
		told(t, r)
		if r.State != want {
			t.Errorf("%+v, want %s", r, want)
		}
	}
	check(inotify(dir), Degraded)
	check(pressure(dir), Degraded)
	put("max_user_instances", "128\n")
	check(inotify(dir), Degraded)
	put("max_user_instances", "8192\n")
	check(inotify(dir), OK)
	put("memory", "some avg10=0.00\n")
	check(pressure(dir), OK)

	if rows := OpenFiles(dir, 7); len(rows) > 0 {
		t.Errorf("no such process: %+v", rows)
	}
	const limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             1                    1                    processes \n"
	put("7/limits", limits+"Max open files            1024                 1048576              files     \n")
	if rows := OpenFiles(dir, 7); len(rows) != 1 {
		t.Errorf("%+v", rows)
	} else {
		check(rows[0], Degraded)
	}
	put("7/limits", limits+"Max open files            65536                1048576              files     \n")
	if rows := OpenFiles(dir, 7); len(rows) > 0 {
		t.Errorf("%+v", rows)
	}
}
