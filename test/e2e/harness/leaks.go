package harness

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settle is how long Leaks gives a runtime to finish what it does behind the caller's back: a shim outlives the
// container it served, and stock's takes five seconds more when something hangs at its end.
const settle = 20 * time.Second

// Leaks returns what is left on the machine of containers that are gone: processes, mounts, cgroups, shim sockets,
// bundles, runc's state, network namespaces held open, TCP ports still listened on; one line each, sorted. Call it
// after deleting every container: a running one is all of these. containerd itself, Forefend's daemons and the
// commands this process runs right now are expected and not listed. Leaks waits a few seconds for the list to become empty before it believes it.
func (e *Env) Leaks(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		found, err := e.owner().leaks(e.expected)
		if err != nil || len(found) == 0 || !pause(ctx) {
			return found, err
		}
	}
}

// expected tells whether a process is meant to live as long as the environment.
func (e *Env) expected(p process) bool {
	return p.parent == os.Getpid() || isDaemon(p) || isScanOfDaemon(p)
}

// isScanOfDaemon tells a scanner at work, which may take longer than Leaks waits, from one that its daemon left behind.
func isScanOfDaemon(p process) bool {
	if !p.is("forefend-scan") {
		return false
	}
	parent, err := readProcess(p.parent)
	return err == nil && isDaemon(parent)
}

func isDaemon(p process) bool { return p.is("forefend", "daemon") || p.is("forefend", "tunneld") }

// leaks lists what there is of this owner now, leaving out processes that are expected and their cgroups.
func (o owner) leaks(expected func(process) bool) ([]string, error) {
	found, err := o.owned()
	if err != nil {
		return nil, err
	}
	var lines, busy []string
	for _, p := range found {
		if expected(p) {
			busy = append(busy, p.cgroups...)
		} else {
			lines = append(lines, p.String())
		}
	}
	held, err := o.held(found)
	if err != nil {
		return nil, err
	}
	lines = append(lines, held...)
	dirs, err := o.cgroupDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		// containerd 1.x style hierarchies keep an empty parent named after the namespace: only its children count.
		inUse := slices.ContainsFunc(busy, func(path string) bool { return path != "/" && strings.HasSuffix(dir, path) })
		if filepath.Base(dir) != filepath.Base(o.dir) && !inUse {
			lines = append(lines, "cgroup "+dir)
		}
	}
	points, err := o.mountPoints()
	if err != nil {
		return nil, err
	}
	for _, point := range points {
		lines = append(lines, "mount "+point)
	}
	files, err := o.files()
	lines = append(lines, files...)
	slices.Sort(lines)
	return lines, err
}

// held lists the foreign network namespaces and the listening TCP ports that processes keep.
func (o owner) held(found []process) ([]string, error) {
	listening, err := listeners()
	if err != nil {
		return nil, err
	}
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range found {
		own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid)) // of a node that the test made, for one; tunneld has it open
		for _, target := range descriptors(p.pid) {
			if strings.HasPrefix(target, "net:[") && target != ours && target != own {
				lines = append(lines, fmt.Sprintf("network namespace %s held by %v", target, p))
			}
			inode := strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")
			if port, ok := listening[inode]; ok && !p.is("containerd", "--config") { // CRI's streaming server is its own
				lines = append(lines, fmt.Sprintf("TCP port %s listened on by %v", port, p))
			}
		}
	}
	return lines, nil
}

// runcRoot is where the shims keep runc's state, unless told otherwise, whatever containerd's own state directory is.
const runcRoot = "/run/containerd/runc"

// defaultSockets is where a shim listens that does not know containerd's socket_dir.
const defaultSockets = "/run/containerd/s"

// files lists the sockets, bundles and runc states of containers.
func (o owner) files() ([]string, error) {
	var lines []string
	patterns := map[string]string{
		"shim socket": filepath.Join(o.dir, "s", "*"),
		"bundle":      filepath.Join(o.dir, "state", "io.containerd.runtime.v2.task", "*", "*"),
	}
	if o.namespace != "" {
		patterns["runc state"] = filepath.Join(runcRoot, o.namespace, "*")
	}
	var failed error
	for what, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		failed = errors.Join(failed, err)
		for _, path := range paths {
			lines = append(lines, what+" "+path)
		}
	}
	for _, path := range o.criStates() {
		if _, err := os.Lstat(path); err == nil {
			lines = append(lines, "runc state "+path)
		}
	}
	for _, path := range o.defaultSockets() {
		if _, err := os.Lstat(path); err == nil {
			lines = append(lines, "shim socket "+path)
		}
	}
	return lines, failed
}

// defaultSockets are the places where shims of our containers would have listened without socket_dir: the name is a
// digest of containerd's address, the namespace and the id of the container, or of its pod.
func (o owner) defaultSockets() []string {
	var paths []string
	for _, space := range o.spaces {
		for _, id := range o.ids {
			path := filepath.Join(o.dir, "containerd.sock", space, id)
			for _, p := range []string{path, path + "/debug"} {
				paths = append(paths, fmt.Sprintf("%s/%x", defaultSockets, sha256.Sum256([]byte(p))))
			}
		}
	}
	return paths
}

// criStates are the places of runc's state of our containers in CRI's namespace, which all environments share.
func (o owner) criStates() []string {
	paths := make([]string, 0, len(o.ids))
	for _, id := range o.ids {
		paths = append(paths, filepath.Join(runcRoot, criNamespace, id))
	}
	return paths
}
