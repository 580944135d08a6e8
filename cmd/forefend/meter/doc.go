// Package meter shows the daemon's figures, and a gateway's, to Prometheus: it counts what the orchestrator tells its Meter, asks for
// what stands at the moment of a scrape, and serves both on a unix socket or on the loopback interface.
// docs/metrics.md names every figure; a test compares it with what is registered here.
//
// The number of time series is bounded by construction: every label has a fixed list of values, and what is not on the
// list is counted under "other". Ids, images, users and paths are never labels.
//
// Only `forefend daemon` and `forefend gateway` use it, and nothing else imports client_golang: shims must stay small. All methods may be called
// from any goroutine.
package meter
