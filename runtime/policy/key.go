package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Key names one policy value: "memory", or "syscalls/ptrace" for one member
// of a family. Keys are the same words in annotations, config, CLI and explain.
type Key string

// Dimension groups keys that share a conflict rule.
type Dimension string

// The dimensions of a policy (DESIGN section 5). Control holds what steers Forefend itself.
const (
	Control      Dimension = "control"
	Resources    Dimension = "resources"
	Syscalls     Dimension = "syscalls"
	Capabilities Dimension = "capabilities"
	Filesystem   Dimension = "filesystem"
	Network      Dimension = "network"
	Egress       Dimension = "egress"
	Devices      Dimension = "devices"
)

// Dimensions lists every dimension in the order explain prints them.
var Dimensions = []Dimension{Control, Resources, Syscalls, Capabilities, Filesystem, Network, Egress, Devices}

// The keys and the families of keys. A family's members are "family/name".
const (
	KeyMode       Key = "mode"
	KeyAgent      Key = "agent"
	KeySealed     Key = "sealed"
	KeyMemory     Key = "memory"
	KeyMemorySoft Key = "memory.soft"
	KeyMemorySwap Key = "memory.swap"
	KeyCPUs       Key = "cpus"
	KeyCPUShares  Key = "cpu.shares"
	KeyPIDs       Key = "pids"
	KeyIORead     Key = "io.read"
	KeyIOWrite    Key = "io.write"
	KeyIOWeight   Key = "io.weight"
	KeyRlimits    Key = "rlimits"
	KeyOOMScore   Key = "oom_score_adj"

	KeySeccomp         Key = "seccomp"
	KeySyscalls        Key = "syscalls"
	KeyServing         Key = "serving"
	KeyCapabilities    Key = "capabilities"
	KeyNoNewPrivileges Key = "no_new_privileges"
	KeyReadonlyRoot    Key = "readonly_root"
	KeyMaskedPaths     Key = "masked_paths"
	KeyReadonlyPaths   Key = "readonly_paths"
	KeyNetwork         Key = "network"
	KeyEgressDefault   Key = "egress.default"
	KeyEgressFeeds     Key = "egress.feeds"
	KeyEgress          Key = "egress"
	KeyExec            Key = "exec"
	KeyDevices         Key = "devices"
)

type keyInfo struct {
	key       Key
	dimension Dimension
	scale     scale
	family    bool
	help      string
}

// keys is the one table of what a policy is made of. To add a key: add a row
// here, a step in runtime/rewrite, and a line in config.toml.example.
var keys = []keyInfo{
	{KeyMode, Control, words{"enforce", "adaptive", "observe"}, false, "how strictly the policy is applied"},
	{KeySealed, Control, words{"yes", "no"}, false, "history says that unseen dangerous calls are surprises"},
	{KeyAgent, Control, words{"on", "off"}, false, "whether the control agent is injected"},
	{KeyMemory, Resources, bytes{}, false, "hard memory limit"},
	{KeyMemorySoft, Resources, bytes{}, false, "memory above which the kernel reclaims (memory.high, v1 soft limit)"},
	{KeyMemorySwap, Resources, bytes{}, false, "hard limit of memory plus swap"},
	{KeyCPUs, Resources, millicores{}, false, "CPU time per second, in processors"},
	{KeyCPUShares, Resources, count{least: 2}, false, "relative CPU weight, 1024 is one share"},
	{KeyPIDs, Resources, count{least: 1}, false, "most processes and threads"},
	{KeyIORead, Resources, rate{}, true, "most bytes per second that are read from a disk, by its numbers"},
	{KeyIOWrite, Resources, rate{}, true, "most bytes per second that are written to a disk, by its numbers"},
	{KeyIOWeight, Resources, count{least: 10, most: 1000}, false, "relative weight at disks, 100 is one share"},
	{KeyRlimits, Resources, count{}, true, "hard resource limits by name"},
	{KeyOOMScore, Resources, oomScore{}, false, "how soon the kernel kills the container when the node is out of memory, 1000 the soonest"},
	{KeySeccomp, Syscalls, words{"profile", "unconfined"}, false, "whether a system call profile applies at all"},
	{KeySyscalls, Syscalls, words{"kill", "deny", "watch", "native"}, true, "verdict for a system call"},
	{KeyServing, Syscalls, words{"kill", "deny", "watch", "native"}, true, "verdict for a system call of the workload itself once it serves"},
	{KeyCapabilities, Capabilities, words{"dropped", "kept"}, true, "capabilities of the container's processes"},
	{KeyNoNewPrivileges, Capabilities, words{"on", "off"}, false, "execve cannot gain privileges"},
	{KeyExec, Capabilities, words{"off", "non-root", "on"}, false, "who may be executed in the container by its clients"},
	{KeyReadonlyRoot, Filesystem, words{"on", "off"}, false, "root filesystem mounted read-only"},
	{KeyMaskedPaths, Filesystem, words{"masked", "visible"}, true, "paths hidden from the container"},
	{KeyReadonlyPaths, Filesystem, words{"readonly", "writable"}, true, "paths the container cannot write"},
	{KeyNetwork, Network, words{"off", "on"}, false, "whether the container has more network than loopback"},
	{KeyEgressDefault, Egress, words{"closed", "open"}, false, "whether the container may begin contacts with whom nothing is said of"},
	{KeyEgressFeeds, Egress, words{"block", "watch", "off"}, false, "what becomes of contacts with whom a threat feed lists"},
	{KeyEgress, Egress, words{"blocked", "allowed"}, true, "contacts with an address, a network or a name; blocked holds for all of it"},
	{KeyDevices, Devices, words{"none", "r", "rw", "rwm"}, true, "access to a device by its numbers: read, write, make its node"},
}

// The table is indexed once: Merge looks keys up hundreds of times per call.
var keyIndex = func() map[Key]*keyInfo {
	m := make(map[Key]*keyInfo, len(keys))
	for i := range keys {
		m[keys[i].key] = &keys[i]
	}
	return m
}()

// keyRank is where in the table a key is.
var keyRank = func() map[Key]int {
	m := make(map[Key]int, len(keys))
	for i := range keys {
		m[keys[i].key] = i
	}
	return m
}()

// Family returns the family a key belongs to ("syscalls" of
// "syscalls/ptrace") and the member's name; the name is empty for a plain key.
func (k Key) Family() (family Key, name string) {
	if info, name := k.split(); name != "" {
		return info.key, name
	}
	return k, ""
}

// split finds k in the table: the row of a plain key, or of the family and the
// member's name. The row is nil for an unknown key, the name empty for all but
// members.
func (k Key) split() (info *keyInfo, name string) {
	if i := strings.IndexByte(string(k), '/'); i > 0 && i+1 < len(k) {
		if info := keyIndex[k[:i]]; info != nil && info.family {
			return info, string(k[i+1:])
		}
		return nil, ""
	}
	return keyIndex[k], ""
}

// Member returns the key of one member of the family k.
func (k Key) Member(name string) Key { return k + "/" + Key(name) }

func (k Key) info() *keyInfo {
	info, _ := k.split()
	return info
}

// Known reports whether k is a key of the table, or a member of one of its
// families.
func (k Key) Known() bool {
	info, name := k.split()
	return info != nil && info.family == (name != "")
}

// Dimension returns the dimension k belongs to, empty for an unknown key.
func (k Key) Dimension() Dimension {
	if info := k.info(); info != nil {
		return info.dimension
	}
	return ""
}

// Parse reads a value of k as people write it. The error names k and what
// would have been accepted.
func (k Key) Parse(s string) (Value, error) {
	info := k.info()
	if info == nil {
		return 0, fmt.Errorf("%s is not a policy key", k)
	}
	v, err := info.scale.parse(s)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", k, err)
	}
	return v, nil
}

// Words lists the values of k by name from tightest to loosest, nil when k
// counts something.
func (k Key) Words() []string {
	if info := k.info(); info != nil {
		if w, ok := info.scale.(words); ok {
			return slices.Clone(w)
		}
	}
	return nil
}

// Format prints a value of k for people.
func (k Key) Format(v Value) string {
	if info := k.info(); info != nil {
		return info.scale.format(v)
	}
	return fmt.Sprint(int64(v))
}

// Help is a phrase that says what k means, empty for an unknown key.
func (k Key) Help() string {
	if info := k.info(); info != nil {
		return info.help
	}
	return ""
}

// Keys lists the plain keys and the families, in the order explain prints them.
func Keys() []Key {
	out := make([]Key, len(keys))
	for i, info := range keys {
		out[i] = info.key
	}
	return out
}
