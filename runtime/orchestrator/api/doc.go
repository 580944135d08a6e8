// Package api is the contract of the Policy Orchestration Service: what the
// shim and the CLI ask of the node daemon and what it answers.
//
// The service speaks ttrpc over a root-only unix socket. Each message body is
// the JSON of a Go type of this package inside a protobuf BytesValue, the way
// containerd itself carries OCI specs; docs/decisions/0002 says why. Every type has a
// version or is additive: unknown JSON fields are ignored by older readers.
//
// Client may be used from any goroutine.
package api
