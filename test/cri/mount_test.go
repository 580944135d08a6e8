package cri

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestMounts checks volumes as a kubelet mounts them: read-only and recursively so, propagation both ways, and devices.
func TestMounts(t *testing.T) {
	n := newNode(t)
	// A volume with another file system mounted below it, shared, as kubelets want /var/lib/kubelet.
	volume := n.dir(t, "volume")
	mountShared(t, volume)
	below := filepath.Join(volume, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, below)
	pods := n.pods(t, mayBePrivileged)
	readOnly := func(m *cri.Mount) { m.Readonly = true }
	recursive := func(m *cri.Mount) { m.Readonly, m.RecursiveReadOnly = true, true }
	propagation := func(p cri.MountPropagation) func(*cri.Mount) {
		return func(m *cri.Mount) { m.Propagation = p }
	}
	for _, tc := range []struct {
		name   string
		mods   []containerMod
		script string
		want   string
	}{
		{"writable", []containerMod{bind(volume, "/v")}, "touch /v/a /v/below/a && ls /v/below", `^a\nexit 0\n$`},
		{"read-only", []containerMod{bind(volume, "/v", readOnly)}, "touch /v/b; touch /v/below/b && echo below", `Read-only(?s:.*)below\n`},
		{"read-only, recursively", []containerMod{bind(volume, "/v", recursive)}, "touch /v/b; touch /v/below/b", `Read-only(?s:.*)Read-only`},
		{"a file", []containerMod{bind(n.Probe(), "/bin/other", readOnly)}, "/bin/other exit 3", `exit 3`},
		{"propagation private", []containerMod{bind(volume, "/v")}, "grep ' /v ' /proc/self/mountinfo | grep -c 'shared\\|master'", `^0\n`},
		{"propagation from the host", []containerMod{bind(volume, "/v", propagation(cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER))},
			"grep ' /v ' /proc/self/mountinfo | grep -c master", `^1\n`},
		{"propagation both ways", []containerMod{bind(volume, "/v", propagation(cri.MountPropagation_PROPAGATION_BIDIRECTIONAL)), security(allPowers)},
			"grep ' /v ' /proc/self/mountinfo | grep -c shared; mkdir -p /v/inside && mount -t tmpfs none /v/inside && touch /v/inside/made && echo mounted", `^1\nmounted\n`},
		{"missing", []containerMod{bind(filepath.Join(n.Dir, "no", "such"), "/v")}, "ls -d /v", `/v`}, // CRI makes it
		{"device", []containerMod{device("/dev/full", "/dev/my-full", "rw")}, "echo x > /dev/my-full; stat -c %t:%T /dev/my-full; ls /dev | sort | tr '\\n' ' '", `1:7`},
		{"device, read only", []containerMod{device("/dev/zero", "/dev/my-zero", "r")}, "head -c 3 /dev/my-zero | wc -c; echo x > /dev/my-zero", `^3\n`},
		{"no device", nil, "mknod /tmp/sda b 8 0; head -c 1 /tmp/sda | wc -c", `not permitted`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			underBoth(t, func(t *testing.T, handler string) string {
				out := pods[handler].run(t, append(tc.mods, shell("exec 2>&1; "+tc.script))...)
				if !regexp.MustCompile(tc.want).MatchString(out) {
					t.Errorf("got %s, want %s", out, tc.want)
				}
				inside := filepath.Join(volume, "inside")
				if _, err := os.Stat(filepath.Join(inside, "made")); err == nil { // the container mounted it for all
					out += "seen outside\n"
					if err := unix.Unmount(inside, unix.MNT_DETACH); err != nil {
						t.Error(err)
					}
				}
				return out
			})
		})
	}
}

func allPowers(s *cri.LinuxContainerSecurityContext) {
	s.Privileged, s.MaskedPaths, s.ReadonlyPaths = true, nil, nil
}

func device(host, inside, permissions string) containerMod {
	return func(c *cri.ContainerConfig) {
		c.Devices = append(c.Devices, &cri.Device{HostPath: host, ContainerPath: inside, Permissions: permissions})
	}
}

// mountShared makes dir a mount of its own whose mounts propagate.
func mountShared(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmountAfter(t, dir)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	unmountAfter(t, dir)
}

func unmountAfter(t *testing.T, dir string) {
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
