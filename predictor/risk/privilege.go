package risk

import (
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// Privileges is what a container is given beyond a plain one.
type Privileges struct {
	Privileged   bool     // all capabilities, all devices
	Capabilities []string // effective or bounding ones; with or without CAP_
	Unconfined   bool     // no seccomp profile
	HostPID      bool
	HostNetwork  bool
	HostIPC      bool
	HostMounts   []string // paths of the host that are mounted; read-only ones count less: see ReadOnly
	ReadOnly     []string // of HostMounts, those mounted read-only
	Root         bool     // uid 0
	UserNS       bool     // in a user namespace of its own: its uid 0 is nobody's root
	NewPrivs     bool     // set-user-id programs work: no_new_privileges is off
}

// privilege is how bad its misuse would be, and how likely it is to be misused in a container about which nothing else is
// known.
type privilege struct{ severity, likelihood float64 }

// capabilityRisk lists capabilities that Docker's default set has not, by what they open (capabilities(7)); the default ones
// and others not listed here count for nothing, NET_RAW excepted, which forges.
var capabilityRisk = map[string]privilege{
	"SYS_ADMIN": {0.95, 0.2}, "SYS_MODULE": {1, 0.2}, "SYS_PTRACE": {0.8, 0.12}, "SYS_RAWIO": {0.95, 0.15}, "BPF": {0.8, 0.12},
	"DAC_READ_SEARCH": {0.8, 0.12}, "SYS_BOOT": {0.7, 0.05}, "SYS_TIME": {0.3, 0.05}, "MAC_ADMIN": {0.7, 0.08},
	"MAC_OVERRIDE": {0.7, 0.08}, "NET_ADMIN": {0.5, 0.1}, "SYSLOG": {0.3, 0.05}, "PERFMON": {0.4, 0.05}, "SYS_CHROOT": {0.1, 0.05},
	"NET_RAW": {0.2, 0.05}, "MKNOD": {0.2, 0.05}, "SYS_RESOURCE": {0.3, 0.05}, "SYS_NICE": {0.15, 0.05}, "CHECKPOINT_RESTORE": {0.5, 0.08},
	"LINUX_IMMUTABLE": {0.2, 0.03}, "AUDIT_CONTROL": {0.5, 0.05}, "IPC_LOCK": {0.1, 0.03}, "WAKE_ALARM": {0.05, 0.03},
}

// mountRisk lists paths of the host by what who can write there can do. The longest that matches counts.
var mountRisk = map[string]privilege{
	"/": {1, 0.25}, "/etc": {0.95, 0.15}, "/root": {0.9, 0.12}, "/home": {0.6, 0.05}, "/proc": {0.9, 0.15}, "/sys": {0.6, 0.08},
	"/dev": {0.95, 0.15}, "/boot": {0.95, 0.1}, "/lib": {0.9, 0.1}, "/lib/modules": {0.4, 0.03}, "/usr": {0.9, 0.1}, "/bin": {0.9, 0.1}, "/sbin": {0.9, 0.1},
	"/var/run/docker.sock": {1, 0.3}, "/run/docker.sock": {1, 0.3}, "/run/containerd": {1, 0.25}, "/var/run/containerd": {1, 0.25},
	"/var/run/crio": {1, 0.25}, "/run/crio": {1, 0.25}, "/var/lib/kubelet": {0.9, 0.12}, "/var/lib/docker": {0.9, 0.12},
	"/var/lib/containerd": {0.9, 0.12}, "/etc/kubernetes": {0.95, 0.2}, "/var/log": {0.4, 0.06}, "/var/spool/cron": {0.95, 0.2}, "/etc/cron.d": {0.95, 0.2},
	"/var/run": {0.7, 0.1}, "/run": {0.7, 0.1},
	// Files that runtimes make for each container and mount from where they keep them.
	"/var/lib/docker/containers": {0, 0}, "/var/lib/kubelet/pods": {0, 0}, "/etc/localtime": {0, 0}, "/etc/timezone": {0, 0},
	"/etc/resolv.conf": {0, 0}, "/etc/hosts": {0, 0}, "/etc/ssl/certs": {0, 0}, "/dev/shm": {0, 0}, "/var/lib/nerdctl": {0, 0},
	"/usr/share": {0.1, 0.02}, "/run/containerd/io.containerd.grpc.v1.cri": {0, 0}, "/var/lib/containerd/io.containerd.grpc.v1.cri": {0, 0},
}

func (p Privileges) factor() evidence.Factor {
	var found []finding
	add := func(is bool, severity, likelihood float64, why string) {
		if is {
			found = append(found, finding{severity, likelihood, why})
		}
	}
	add(p.Privileged, 1, 0.35, "privileged: all capabilities and devices")
	add(p.Unconfined, 0.6, 0.12, "no system call profile was asked for")
	add(p.HostPID, 0.8, 0.15, "sees and signals the host's processes")
	add(p.HostNetwork, 0.5, 0.1, "uses the host's network")
	add(p.HostIPC, 0.4, 0.08, "uses the host's shared memory")
	add(p.Root && !p.UserNS, 0.3, 0.1, "runs as root without a user namespace")
	add(p.NewPrivs, 0.2, 0.05, "may gain privileges by set-user-id programs")
	for _, c := range p.Capabilities {
		name := strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		x := capabilityRisk[name]
		if p.UserNS {
			x.likelihood /= 4 // over its own namespaces only, the kernel's flaws aside
		}
		add(x.severity > 0, x.severity, x.likelihood, "capability "+name)
	}
	for _, m := range p.HostMounts {
		x, at := mountOf(m)
		why := "mounts " + at + " of the host"
		if slices.Contains(p.ReadOnly, m) {
			x.severity, x.likelihood, why = x.severity/2, x.likelihood/2, why+" read-only"
		}
		add(x.severity > 0, x.severity, x.likelihood, why)
	}
	return join(evidence.FactorPrivileges, found)
}

// mountOf returns what a mount of p opens: the longest path of mountRisk that holds it. The root of the host holds all,
// so it counts only itself.
func mountOf(p string) (privilege, string) {
	for at := path.Clean("/" + p); ; at = path.Dir(at) {
		if x, ok := mountRisk[at]; ok && (at != "/" || path.Clean("/"+p) == "/") {
			return x, at
		}
		if at == "/" {
			return privilege{}, ""
		}
	}
}
