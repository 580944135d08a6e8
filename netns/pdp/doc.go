// Package pdp is the policy decision point of egress: rules with CEL conditions over what is known of a request
// (flow.Context), and the tunnel profile that follows (flow.Decision).
//
// Compile makes a Set of rules that were read elsewhere; Set.Decide answers for one Context at one Moment. All rules that
// apply are merged (Join): most encryption, least rate, dedicated over shared; one that denies wins. Where none applies the
// default does. A condition that cannot be evaluated denies.
//
// An identity that is only claimed can raise strictness and never lower it: such a Context is decided twice, with the claim
// and as if nothing had been claimed, and the two answers are merged. So is a request whose class of data is unknown and for
// which the site has no default: it is decided as each class that rules name, and as none of them.
//
// A Set is not changed by use and may be used from any goroutine. The package reads no file and no clock; package
// cmd/internal/config/rules reads rule files, and package cache keeps answers where they are asked for.
package pdp
