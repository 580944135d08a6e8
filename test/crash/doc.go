// Package crash holds the tests that kill: shim, daemon, containerd and runc at each step of a container's life, the
// machine's power at each step of a write. It has no code of its own; docs/crashes.md says what they found, and
// docs/decisions/0021 how a process is stopped at an exact step.
//
// `make test-crash` runs all of it. `go test` with FOREFEND_ROOT_TESTS=1, as in CI, runs the whole matrix, and cuts the
// power after a sample of the writes.
package crash
