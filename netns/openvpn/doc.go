// Package openvpn runs Debian's openvpn for tunnels: one process for each device, which is told everything by its supervisor in this
// process, through its management interface, and has no way to anything else (docs/decisions/0072).
//
//   - It has no capability, cannot gain any, is a user of its own, runs no scripts, and ends with this process.
//   - Certificates and keys come to it by a pipe: no file, no argument and no environment has them.
//   - Its UDP socket is in this process's network. Its TUN is made here for its user alone, waits in a namespace of no one else's until
//     somebody needs it, and then moves to where it is needed, which takes 14 to 41 ms.
//   - Of what a server pushes, addresses and the keys' agreement are taken, and the addresses only where the configuration allows them.
//
// Functions and methods may be called from any goroutine.
package openvpn

// Binary is the program that runs, found by PATH. Debian has it in openvpn (2.6, for --peer-fingerprint).
const Binary = "openvpn"
