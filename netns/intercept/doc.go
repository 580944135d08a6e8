// Package intercept is the egress interceptor (DESIGN section 9): it takes the outbound TCP connections of a network
// namespace, finds out what each is for, asks what its policy is, and relays it through the tunnel that the answer demands.
// Every request of a kept-alive HTTP connection is decided on its own and may go another way than the one before.
//
// # What is seen
//
//   - HTTP/1.0 and 1.1: every request: host, method, path, and from its headers user and data class (Settings).
//   - HTTP/2 without TLS, by prior knowledge: every stream, the same, and of gRPC the service.
//   - TLS: the ClientHello's server name. Everything behind it is one flow: the workload's user and data, a write.
//   - Anything else: address and port.
//
// A connection whose client waits for the server to speak is not held up: known ports and addresses that were seen to speak
// first are dialled at once, others after Limits.FirstByte. If the client turns out to speak HTTP or TLS after all, it is
// treated as that, so waiting gains it nothing.
//
// # What is relayed
//
// Bytes as they came. Heads are read and not rewritten, with one exception: an offer to upgrade to HTTP/2 (h2c) is left out,
// since a client that speaks HTTP/2 on such an offer begins in the middle of a stream. Bodies are spliced in the kernel where they are long. Half-closed
// connections, resets and early answers reach the other side as they would without us. A head that two servers might read
// differently is answered with 400 and counted. A request is repeated only on a kept-alive connection
// that had ended before anything of an answer came, if it is idempotent and whole.
//
// # Closed
//
// No decision, no tunnel: no connection. HTTP is told why (403, 400, 502, 503), others see a reset.
//
// An Engine is used from any goroutine. It knows neither rules nor tunnels: Decider and Dialer do. It does not redirect: the
// namespace's nft rules do.
package intercept
