// Package door bounds what callers may hold of a ttrpc server: connections,
// half messages, unanswered calls and unread answers. Its peers are root, as
// the server is; the bounds are for a peer gone wrong, and keep the others
// served meanwhile.
//
// A Door is given to ttrpc as its handshaker. The connections that it hands on
// read one whole message at a time, so that ttrpc never allocates for a message
// that does not come.
//
// A Door may be used from any goroutine. It is for unary calls only: streams
// are refused.
package door
