// Package estimate says how much the next run of a workload may use, and how
// likely it is to do something new, from what earlier runs did.
//
// Two estimators live here. Calibrator gives an upper bound for a run's peak
// whose coverage is calibrated on every run that came in (split conformal
// prediction with an adaptive margin): asked for 1 % of runs above the bound,
// 1 % of runs are above it. MissingMass bounds the probability that the next
// run makes a system call that no earlier one made.
//
// The package is pure: no file, clock, log or goroutine, and the same inputs
// always give the same result. A Calibrator changes when it learns and has no
// lock: its owner serialises Learn against everything else; any number of
// goroutines may call Bound at once while nobody learns. Everything else is
// values.
package estimate
