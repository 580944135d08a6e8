// Package uplink keeps an order among QoS classes on devices by which a node reaches the world: a queueing discipline of the kernel's (HTB),
// with a class for each of package flow's, by the code point of the packets. What a device has is planned from its rate alone, and put in
// force piece by piece: what is there already stays, so that a change of the rate loses nothing, and what a killed process left is taken up.
//
// It is for devices of the node, in a namespace that its user names. It shapes what is sent, never what is received, and it leaves a device
// alone to which somebody else gave a queueing discipline. Queues of tunnels' own devices are package route's.
package uplink
