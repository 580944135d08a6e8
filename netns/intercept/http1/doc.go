// Package http1 reads the heads of HTTP/1.0 and HTTP/1.1 messages and the framing of chunked bodies (RFC 9112), so that
// the bytes can be relayed unchanged: it says where a message ends and what its head means, and rewrites nothing.
//
// It has one interpretation of a head or none. What two servers might read differently (bare line feeds, folded lines,
// two lengths, a length beside a transfer coding, …) is a Fault, whose Kind is counted; nothing is repaired.
//
// Values are not safe for use by several goroutines. Not for: making messages, and HTTP/2.
package http1
