package shim

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rootfs"
	"forefend.dev/forefend/runtime/workload"
)

// Annotations of containerd's CRI plugin that identify a container.
const (
	criPrefix    = "io.kubernetes.cri."
	criSandboxID = criPrefix + "sandbox-id"
	criType      = criPrefix + "container-type"
	criImage     = criPrefix + "image-name"
	criNamespace = criPrefix + "sandbox-namespace"
)

// namespaceOfCRI is where containerd's CRI plugin keeps its containers.
const namespaceOfCRI = "k8s.io"

// maxAnnotations bounds how many annotations are handed on; a spec with more
// Forefend annotations than this is refused by the daemon's parser anyway.
const maxAnnotations = 64

// factsOf derives what the bundle alone says about a container.
func factsOf(id workload.ID, spec *specs.Spec, r *taskv3.CreateTaskRequest, containerd string) workload.Facts {
	f := workload.Facts{
		ID:          id,
		Run:         fmt.Sprintf("%.40s-%x", id.Container, time.Now().UnixNano()),
		Kind:        workload.KindContainer,
		Annotations: relevant(spec.Annotations),
		Rootfs:      rootfs.Layers(rootfsMounts(r), r.Bundle+"/rootfs"),
		Containerd:  containerd,
		Bundle:      r.Bundle,
		Sandbox:     spec.Annotations[criSandboxID],
	}
	if spec.Annotations[criType] == string(workload.KindSandbox) {
		f.Kind = workload.KindSandbox
	}
	f.Image.Name = spec.Annotations[criImage]
	f.User = spec.Annotations[policy.AnnotationUser]
	f.Group = first(spec.Annotations[policy.AnnotationGroup], spec.Annotations[criNamespace], id.Namespace)
	if p := spec.Process; p != nil {
		f.Args, f.Cwd, f.UID, f.Env = p.Args, p.Cwd, p.User.UID, workload.DecisiveEnv(p.Env)
		for _, e := range p.Env {
			if v, ok := strings.CutPrefix(e, "PATH="); ok {
				f.Path = v
			}
		}
	}
	f.Privileged = privileged(spec)
	f.Unconfined = unconfined(spec, id.Namespace)
	f.HostNetwork = !hasNamespace(spec, specs.NetworkNamespace)
	f.HostPID = !hasNamespace(spec, specs.PIDNamespace)
	f.UserNS = hasNamespace(spec, specs.UserNamespace)
	f.NameServers = nameServers(spec.Mounts)
	return f
}

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}

func rootfsMounts(r *taskv3.CreateTaskRequest) []rootfs.Mount {
	out := make([]rootfs.Mount, 0, len(r.Rootfs))
	for _, m := range r.Rootfs {
		out = append(out, rootfs.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}

// relevant keeps the annotations Forefend reads.
func relevant(all map[string]string) map[string]string {
	out := make(map[string]string)
	for k, v := range all {
		if (strings.HasPrefix(k, policy.Prefix) || strings.HasPrefix(k, criPrefix)) && len(out) < maxAnnotations {
			out[k] = v
		}
	}
	return out
}

// privileged recognises what `--privileged` of every client makes of a spec: no
// seccomp profile, no masked paths, and the capability that rules them all.
func privileged(spec *specs.Spec) bool {
	if spec.Linux == nil || spec.Process == nil || spec.Process.Capabilities == nil {
		return false
	}
	all := false
	for _, c := range spec.Process.Capabilities.Bounding {
		all = all || c == "CAP_SYS_ADMIN"
	}
	return all && spec.Linux.Seccomp == nil && len(spec.Linux.MaskedPaths) == 0 && len(spec.Process.Capabilities.Bounding) >= 30
}

// nerdctlNamespace is an annotation that nerdctl puts into every spec it writes.
const nerdctlNamespace = "nerdctl/namespace"

// unconfined names the client that left the seccomp profile out because its user
// said so. ctr leaves it out unless told otherwise, which says nothing; nerdctl
// has a profile of its own and leaves it out for --security-opt seccomp=unconfined alone;
// in CRI no profile means unconfined, and a kubelet asks for that by name.
func unconfined(spec *specs.Spec, namespace string) string {
	if spec.Linux == nil || spec.Linux.Seccomp != nil {
		return ""
	}
	if _, ok := spec.Annotations[nerdctlNamespace]; ok {
		return "nerdctl"
	}
	if _, ok := spec.Annotations[criSandboxID]; ok && namespace == namespaceOfCRI {
		return workload.ThroughCRI
	}
	return ""
}

func hasNamespace(spec *specs.Spec, t specs.LinuxNamespaceType) bool {
	if spec.Linux == nil {
		return false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == t {
			return true
		}
	}
	return false
}

// closed reports whether no mount brings programs into the container that its image does not have: directories of the
// node from which programs can be executed, and single programs. What cannot be looked at counts as one.
func closed(mounts []specs.Mount) bool {
	return !slices.ContainsFunc(mounts, func(m specs.Mount) bool {
		bound := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if !bound || slices.Contains(m.Options, "noexec") || m.Destination == "/dev/shm" || strings.HasPrefix(m.Destination, serviceAccount) {
			return false
		}
		info, err := os.Stat(m.Source)
		return err != nil || info.IsDir() || info.Mode()&0o111 != 0
	})
}

// serviceAccount is below where a kubelet puts a pod's token.
const serviceAccount = "/var/run/secrets/kubernetes.io/"

// forDecision copies what a decision looks at. Environment, hooks, mounts and
// foreign annotations stay behind: they can hold secrets.
func forDecision(spec *specs.Spec) specs.Spec {
	out := specs.Spec{Version: spec.Version, Annotations: relevant(spec.Annotations)}
	if p := spec.Process; p != nil {
		out.Process = &specs.Process{
			User: p.User, Cwd: p.Cwd, Capabilities: p.Capabilities, Rlimits: p.Rlimits,
			NoNewPrivileges: p.NoNewPrivileges, OOMScoreAdj: p.OOMScoreAdj,
		}
	}
	if spec.Root != nil {
		out.Root = &specs.Root{Readonly: spec.Root.Readonly}
	}
	if l := spec.Linux; l != nil {
		out.Linux = &specs.Linux{
			Resources: l.Resources, Seccomp: l.Seccomp, Namespaces: l.Namespaces,
			MaskedPaths: l.MaskedPaths, ReadonlyPaths: l.ReadonlyPaths,
		}
	}
	return out
}
