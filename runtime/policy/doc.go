// Package policy says what a container may do and who decided it.
//
// Every policy value is a point on a scale on which larger means looser: bytes
// of memory, off/on of the network, deny/watch/native of one system call. That
// single order makes Merge small and gives it laws that are tested: it is
// total, deterministic and idempotent, the order of its inputs is irrelevant,
// guardrails dominate, nothing that was claimed vanishes, and tightening an
// input never loosens the result. The last has two exceptions, stated with its
// test (TestLawTighteningNeverLoosens): an annotation that is no longer refused
// becomes a request, and leaving observe mode lets predictions override
// requests where the site prefers that.
//
// Authors make Claims, Merge resolves them to an Effective policy in which each
// Field names the author that won, why, and what lost. If `forefend explain`
// cannot say why, this package is wrong.
//
// The package is pure: no file, clock, log, network or goroutine. All
// functions may be called from any goroutine; results share no memory with
// their inputs unless said.
package policy
