// Package channel is the record layer between a shim and its agent: it makes a byte stream of a socketpair on which
// nothing can be altered, repeated, reordered, left out or cut short unnoticed.
//
// Each record carries a version, a sequence number that goes up by one, and a MAC under a key that is new for each start
// of an agent. The first record that is not the one to come is a Fault: it is reported once, and the connection is
// closed, since nothing that follows can be trusted. Records are bounded in size, in the time from their first byte to
// their last, and in number per second.
//
// It is no encryption: the socketpair has no path and both ends are processes that the shim started. What it stops is
// a third who got hold of a descriptor, and an end that is confused or taken over (docs/decisions/0054).
//
// Conn may be used by one reader and any number of writers at a time. The package knows no network package: the agent
// lives beside every container and stays small.
package channel
