// Package bucket keeps the rules of egress in the daemon's store: numbered versions, of which the newest is in force. A version is
// compiled and its tests are run before it is kept, and it is kept before it is in force; what fails changes nothing.
//
// The newest version is on disk twice, as a record of the store's stream and as a snapshot, so that damage of one does not bring an
// older version back. It is for the daemon; what commands need of it besides is Check, Compile and Peek.
//
// A Bucket may be used from any goroutine.
package bucket
