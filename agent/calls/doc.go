// Package calls is the server's side of ttrpc for one connection, as much of it as the agent needs: unary calls whose
// bodies are bytes (google.protobuf.BytesValue), which is how Forefend's services speak.
//
// The client is containerd's ttrpc library, against which the tests run. The library's server is not used here because
// protobuf's registry, which comes with it, costs every start of an agent more than the agent itself: 13.7 ms of CPU
// instead of 5.7, and 1.5 MiB of memory for as long as it runs (docs/decisions/0053).
//
// Serve bounds the size of a message, how many calls run at once and their number in flight; the connection below it
// bounds the rest.
package calls
