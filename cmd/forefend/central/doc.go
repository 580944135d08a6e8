// Package central is how one daemon decides for other nodes (docs/central.md): a Client that asks, keeps answers and follows the epoch,
// and a Server that answers nodes which prove their name by a certificate.
//
// The node puts in what it alone knows (workload, image, risk, container, load); the central daemon has the rules and the clock. All of
// it may be used from any goroutine. Client.Run and Server.Serve go on until their context ends, and leave nothing behind.
package central
