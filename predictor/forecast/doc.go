// Package forecast follows the use of resources by running containers and tells where it goes: a bound for the peak of
// the next window that holds with a stated coverage, and how likely a limit is to be reached soon.
//
// A Model is what a node knows; each resource of each container is a Track, which is fed samples and asked for a
// Forecast. All tracks of a node learn together: the coverage is that of all their windows, and the bounds are those
// whose sum is least among the sets that keep it. Method, assumptions and figures: docs/predictor/usage.md.
//
// The package reads no clock, file or environment: time comes with the samples. A Model serialises its tracks; each
// Track is fed by one goroutine.
package forecast
