package cri

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSecurityContext runs one script under each kind of security context. want proves that the context took effect at
// all; that Forefend does no less and no more than runc is the comparison.
func TestSecurityContext(t *testing.T) {
	n := newNode(t)
	const status = "grep -E '^(Uid|Gid|Groups|Cap|NoNew)' /proc/self/status"
	capabilities := func(add, drop, ambient []string) func(*cri.LinuxContainerSecurityContext) {
		return func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{AddCapabilities: add, DropCapabilities: drop, AddAmbientCapabilities: ambient}
		}
	}
	user := func(uid int64, groups ...int64) func(*cri.LinuxContainerSecurityContext) {
		return func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups = &cri.Int64Value{Value: uid}, groups
		}
	}
	privileged := func(s *cri.LinuxContainerSecurityContext) {
		s.Privileged, s.MaskedPaths, s.ReadonlyPaths = true, nil, nil
	}
	pods := n.pods(t, mayBePrivileged)
	for _, tc := range []struct {
		name   string
		mod    func(*cri.LinuxContainerSecurityContext)
		script string
		want   string // regular expression
	}{
		{"default", nil, status, `CapEff:\t00000000a80425fb`},
		{"drop ALL", capabilities(nil, []string{"ALL"}, nil), status + "; chown 1 /tmp", `CapBnd:\t0{16}\n`},
		{"drop ALL add one", capabilities([]string{"NET_BIND_SERVICE"}, []string{"ALL"}, nil), status, `CapEff:\t0000000000000400`},
		{"drop one", capabilities(nil, []string{"NET_RAW"}, nil), status + "; ping -c1 -W1 127.0.0.1", `CapEff:\t00000000a80405fb`},
		{"add one", capabilities([]string{"SYS_TIME", "NET_ADMIN"}, nil, nil), status + "; ip addr add 10.1.1.1/32 dev lo; ip addr show lo | grep -c 10.1.1.1", `CapEff:\t00000000aa0435fb(?s:.*)\n1\n`},
		{"add ALL", capabilities([]string{"ALL"}, nil, nil), status, `CapEff:\t000001ff`},
		{"unknown capability", capabilities([]string{"NO_SUCH"}, nil, nil), status, `CapEff:\t00000000a80425fb`},
		{"user", user(1000), status + "; id; touch /root/x", `Uid:\t1000\t1000`},
		{"user and groups", user(1000, 2000, 3000), status + "; id -G", `2000 3000`},
		{"user unknown to the image", user(4711), status + "; id -u", `Uid:\t4711`},
		{"group", func(s *cri.LinuxContainerSecurityContext) {
			user(1000)(s)
			s.RunAsGroup = &cri.Int64Value{Value: 33}
		}, status + "; id -g; touch /tmp/f; stat -c %u:%g /tmp/f", `1000:33`},
		{"user name", func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "www-data" }, status, `Uid:\t33\t`},
		{"strict groups", func(s *cri.LinuxContainerSecurityContext) {
			user(1000, 2000)(s)
			s.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
		}, "id -G", `2000`},
		{"read-only root", func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true },
			"touch /x; touch /tmp/x; touch /dev/shm/x && echo shm; grep ' / ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1", `Read-only file system(?s:.*)\nro\n`},
		{"masked and read-only paths", nil, "ls /sys/firmware | wc -l; cat /proc/timer_list | wc -c; echo 1 > /proc/sys/kernel/panic",
			`^0\n0\n(?s:.*)Read-only`},
		{"nothing masked", func(s *cri.LinuxContainerSecurityContext) { s.MaskedPaths, s.ReadonlyPaths = nil, nil },
			"grep -c ' /proc' /proc/mounts; grep ' /proc ' /proc/mounts", `^1\n`},
		{"own masked path", func(s *cri.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"/etc/passwd", "/home"} },
			"wc -c < /etc/passwd; touch /home/x", `^0\n`},
		{"no new privileges", func(s *cri.LinuxContainerSecurityContext) { s.NoNewPrivs = true }, status, `NoNewPrivs:\t1`},
		{"new privileges", user(1000), status, `NoNewPrivs:\t0`},
		{"privileged", privileged, status + "; ls /dev | grep -c .; mount -t tmpfs none /mnt 2>/dev/null || mkdir /m && mount -t tmpfs none /m && echo mounted; " +
			"grep ' /sys ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1", `CapEff:\t000001ff(?s:.*)mounted\nrw\n`},
		{"privileged, no new privileges", func(s *cri.LinuxContainerSecurityContext) { privileged(s); s.NoNewPrivs = true }, status, `CapEff:\t000001ff`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			underBoth(t, func(t *testing.T, handler string) string {
				mods := []containerMod{shell("exec 2>&1; " + tc.script)}
				if tc.mod != nil {
					mods = append(mods, security(tc.mod))
				}
				out := pods[handler].run(t, mods...)
				if !regexp.MustCompile(tc.want).MatchString(out) {
					t.Errorf("got %s, want %s", out, tc.want)
				}
				return out
			})
		})
	}
}

// TestSeccomp runs containers under each kind of profile. What a profile refuses stays refused, what it allows works,
// and an exec is held to the same.
func TestSeccomp(t *testing.T) {
	n := newNode(t)
	profile, err := json.Marshal(specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"chmod", "fchmod", "fchmodat"}, Action: specs.ActErrno}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.Dir, "no-chmod.json")
	if err := os.WriteFile(path, profile, 0o600); err != nil {
		t.Fatal(err)
	}
	localhost := func(s *cri.LinuxContainerSecurityContext) {
		s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: path}
	}
	standard := func(s *cri.LinuxContainerSecurityContext) {
		s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	}
	unconfined := func(s *cri.LinuxContainerSecurityContext) {
		s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	}
	admin := func(next func(*cri.LinuxContainerSecurityContext)) func(*cri.LinuxContainerSecurityContext) {
		return func(s *cri.LinuxContainerSecurityContext) {
			next(s)
			s.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		}
	}
	pods := n.pods(t)
	const script = "exec 2>&1; chmod 400 /home; hostname other; hostname | grep -c other; unshare -m echo unshared; unshare -U echo userns; mount -t tmpfs none /home && echo mounted"
	for _, tc := range []struct {
		name string
		mod  func(*cri.LinuxContainerSecurityContext)
		want string
	}{
		{"localhost", localhost, `chmod: /home: Operation not permitted`},
		{"localhost, admin", admin(localhost), `chmod: /home: Operation not permitted(?s:.*)unshared(?s:.*)mounted`},
		{"runtime default", standard, `hostname: sethostname: Operation not permitted`},
		{"runtime default, admin", admin(standard), `1\nunshared\n(?s:.*)mounted`},
		{"unconfined, admin", admin(unconfined), `1\nunshared\n(?s:.*)mounted`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			underBoth(t, func(t *testing.T, handler string) string {
				p := pods[handler]
				out := p.run(t, shell(script), security(tc.mod))
				if !regexp.MustCompile(tc.want).MatchString(out) {
					t.Errorf("got %s, want %s", out, tc.want)
				}
				c := p.start(t, sleeper(), security(tc.mod))
				return out + c.exec(t, "sh", "-c", script)
			})
		})
	}

	t.Run("missing profile", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			return pods[handler].run(t, shell("true"), security(func(s *cri.LinuxContainerSecurityContext) {
				s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile.json"}
			}))
		})
	})
}
