// Package store keeps Forefend's records on disk: streams of runs, checkpoints,
// events, decisions and versions of rules, and the snapshots of models made from them.
//
// It is an embedded NATS JetStream server without a listener; nothing outside
// this package sees NATS. What Append has returned without error survives a
// power cut. A record carries a version and a checksum. Damage is
// never fatal: what cannot be read is copied or moved to the set-aside
// directory, reported by SetAside, and not met again.
//
// It is not a query engine: callers keep what they decide by in memory and
// replay a stream when they start. A directory is open in one process at a
// time. A Store may be used from any goroutine; functions given to Replay are
// called on the caller's goroutine.
package store
