// Package rewrite turns a decided policy into an OCI spec, and an OCI spec
// into the claims its author makes.
//
// Claims reads what a spec asks for, on the scales of package policy. Apply
// writes an effective policy back, as an ordered list of small steps (see
// steps), one file each; steps do not know each other. Resources does the same
// for the update of a running container and Process for an exec.
//
// The law that keeps this honest: a field is written only where the policy says
// something else than the spec, so applying the claims of a spec to that spec
// changes nothing, and applying a policy twice is applying it once.
//
// What the package does not do: it decides nothing (package policy), compiles no
// system call profile (runtime/seccomp), and reads and writes no file
// (runtime/bundle).
//
// The package is pure: no file, clock, log, network or goroutine. All functions
// may be called from any goroutine, on specs no other goroutine uses.
package rewrite
