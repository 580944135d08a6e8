// Package workload says who is running: the identity of a container, the keys
// under which its history is found, what is known about it before it starts
// (Facts) and what was seen of it while it ran (Observation).
//
// It is a leaf: it imports nothing of Forefend and touches neither files nor
// the network. Values are plain data, safe to copy and to share once built.
package workload
