// Package estimate says how much the next run of a workload may use, and how
// likely it is to do something new, from what earlier runs did.
//
// Two estimators live here. Calibrator gives an upper bound for a run's peak
// whose coverage is calibrated on every run that came in: asked for 1 % of runs above
// the bound, 1 % of runs are above it. MissingMass bounds the probability that the next
// run makes a system call that no earlier one made.
//
// A bound begins with an Origin: a center and a scale, made from the workload's own earlier
// peaks (Own), from workloads that resemble it (Kin), from what the user asked for (Asked),
// from what a scan of its image says (Scanned) or from nothing (Unknown). How far runs ended
// above their origins, in scales, are scores; the scores of each kind of origin are pooled,
// and the bound is the origin plus a quantile of its pool.
//
// The package is pure: no file, clock, log or goroutine, and the same inputs
// always give the same result. A Calibrator changes when it learns and has no
// lock: its owner serialises Learn against everything else; any number of
// goroutines may call Bound at once while nobody learns. Everything else is
// values.
package estimate
