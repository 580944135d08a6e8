// Package history is the node's memory of earlier runs: it records what was
// observed and predicts the next run of the same or of similar workloads.
//
// The store holds each run in full. In memory is a Book: one compact summary
// for each key of a workload at each level, and the calibration of the bounds.
// A Book is loaded from its last snapshot plus the records after it. Record
// first makes an observation durable, then updates the model, so the very next
// Predict uses it.
//
// Book may be used from any goroutine. Predict never waits for the disk.
// Policy is not made here: see predictor/recommend.
package history
