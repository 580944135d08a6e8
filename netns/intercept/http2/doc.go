// Package http2 reads and writes the frames of HTTP/2 (RFC 9113) and reads its header blocks (RFC 7541), so that frames can be
// relayed one by one: it says what a block means and whether it can go on as it is, and rewrites nothing itself.
//
// A block has one interpretation or none, as in http1: names in upper case, headers of a connection, pseudo-headers that are
// unknown, double or out of place, a Host that is not the authority, two lengths, … are an *http1.Fault.
//
// No function keeps what it is given; what a Block holds is good until the next one is read with it. Values are not safe for
// use by several goroutines. Not for: connections, streams and flow control, which are netns/intercept's.
package http2
