// Package shim decorates containerd's runc task service with Forefend's policy.
//
// Service overrides only the calls that change or end something (Create, Start, Exec,
// Update, Delete); every other call, and all event, signal, TTY and exit handling, is
// upstream's own. Before runc sees a bundle, Service asks the node daemon what
// the container may do, rewrites config.json to exactly that and commits it
// atomically; from then on it supervises the container's watched system calls
// and reports what it saw.
//
// The shim must survive without the daemon: a decision is then made here from
// the last sealed policy of the workload (package admit is the same code in both
// places). It holds no model and no store.
//
// One shim may serve all containers of a pod; all state is per container id.
package shim
