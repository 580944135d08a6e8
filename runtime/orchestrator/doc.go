// Package orchestrator is the Policy Orchestration Service of a node: between
// a request and the container it asks the predictor, merges, decides, keeps an
// audit of every decision, takes in what the shims saw and feeds it back to the
// models.
//
// Service holds no model and no storage of its own: those are given to it as
// the small interfaces of this package. Its methods may be called from any
// goroutine. It never blocks a container's creation on anything optional: each
// source of a prediction has its deadline, audit and sealing are asynchronous.
package orchestrator
