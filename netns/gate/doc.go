// Package gate lets the packets of one container through, or not: BPF programs attached to the container's cgroup in the
// v2 hierarchy (docs/decisions/0055). They see what every IPv4 and IPv6 socket made in that cgroup sends and receives, whatever network
// namespace it uses, and keep doing so when nobody of Forefend's lives: the kernel frees programs and maps with the cgroup.
//
// A Gates is what one process has loaded: programs and maps for all its containers. A Gate is one container's; Set is given the
// whole of what shall hold and may be repeated. Feeds is the node's one set of listed addresses, which all gates look up.
// All methods may be called from any goroutine.
//
// Not for: names (the interceptor reads those), packet sockets (they do not pass here), and sockets that a process
// outside the cgroup made and handed in.
package gate
