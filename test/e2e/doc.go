// Package e2e runs real containers under Forefend: a real containerd, the real shim, the real runc, a real daemon,
// nothing replaced. Where it can, a test runs the same container under the stock shim too and compares: what differs is
// Forefend's doing.
//
// The tests are root tests (`make test-root`). Each theme is a file; the tests of a file share as few environments as
// they can, because two cores are all CI has. What tests have in common: host (an environment), container (one
// `ctr run`), report (what Forefend says, read as the documented JSON) and eventually (polling).
package e2e
