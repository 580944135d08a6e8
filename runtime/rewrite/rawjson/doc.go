// Package rawjson edits JSON through a typed view without losing what the type
// does not know.
//
// containerd, CRI plugins and newer OCI specs put fields into config.json that
// the Go type of today has no place for. Decoding and encoding again would drop
// them. Edit instead computes what changed between two states of the typed view and
// makes only that change in the original text: what did not change keeps its bytes,
// down to the spelling of numbers.
//
// The package is pure and its functions may be called from any goroutine. Memory
// and time grow linearly with the input times the depth of the change; the
// caller bounds the input.
package rawjson
