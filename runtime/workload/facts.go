package workload

import "forefend.dev/forefend/predictor/evidence"

// Image is what containerd knows about the image a container was made from.
// Every field may be empty: a container can be made from a bare rootfs.
type Image struct {
	Name       string            `json:"name,omitempty"`       // as the user wrote it: docker.io/library/redis:7
	Repository string            `json:"repository,omitempty"` // Name without tag and digest
	Digest     string            `json:"digest,omitempty"`     // of the image's target descriptor, "sha256:…"
	Labels     map[string]string `json:"labels,omitempty"`     // of the container and the image, bounded
}

// Executable is the program PID 1 will run, as found in the root filesystem.
type Executable struct {
	Path   string `json:"path,omitempty"`   // inside the container, symbolic links resolved
	SHA256 string `json:"sha256,omitempty"` // hex; empty when not (yet) known
	Bits   int    `json:"bits,omitempty"`   // 32 or 64 by its ELF class, 0 when not an ELF file
}

// ThroughCRI is Facts.Unconfined of a container of CRI without a profile.
const ThroughCRI = "CRI"

// Facts is everything about a container that is known before it runs.
// The shim fills what the bundle says; the daemon adds Image and Executable.
type Facts struct {
	ID         ID         `json:"id"`
	Run        string     `json:"run"`               // unique for each Create, also across reuse of the id
	Sandbox    string     `json:"sandbox,omitempty"` // id of the pod sandbox this container belongs to
	Kind       Kind       `json:"kind,omitempty"`    // container, or the sandbox of a pod
	Image      Image      `json:"image"`
	Args       []string   `json:"args"`
	Path       string     `json:"path,omitempty"` // PATH of the container's environment
	Cwd        string     `json:"cwd,omitempty"`
	Env        []string   `json:"env,omitempty"` // NAME=value of those that decide which code runs, no others: see DecisiveEnv
	Executable Executable `json:"executable"`

	User  string `json:"user,omitempty"`  // whose workload this is (annotation, CRI), not the uid
	Group string `json:"group,omitempty"` // their group: annotation, Kubernetes namespace, containerd namespace
	UID   uint32 `json:"uid"`

	// Requested is what the spec and its annotations ask for; Prior what a scan of the image
	// says about its memory.
	Requested Requested            `json:"requested,omitzero"`
	Prior     evidence.MemoryPrior `json:"prior,omitzero"`

	Privileged bool `json:"privileged,omitempty"` // all capabilities and no seccomp profile
	// Unconfined names the client whose user asked for no seccomp profile, or CRI,
	// whose users cannot leave the question open; "" when nobody is known to have
	// asked: a spec without one says nothing by itself.
	Unconfined  string `json:"unconfined,omitempty"`
	HostNetwork bool   `json:"host_network,omitempty"` // no network namespace of its own
	HostPID     bool   `json:"host_pid,omitempty"`
	// NameServers are the addresses that the container's own resolv.conf(5) names, where it is given one.
	NameServers []string `json:"name_servers,omitempty"`
	UserNS      bool     `json:"user_ns,omitempty"`

	Annotations map[string]string `json:"annotations,omitempty"` // those Forefend reads, no others
	Rootfs      []string          `json:"rootfs,omitempty"`      // directories, topmost layer first
	Containerd  string            `json:"containerd,omitempty"`  // GRPC address of the containerd that asked
	Bundle      string            `json:"bundle,omitempty"`
}

// Kind says what part of a pod a container is.
type Kind string

// The kinds of container. Outside Kubernetes every container is KindContainer.
const (
	KindContainer Kind = "container"
	KindSandbox   Kind = "sandbox"
)
