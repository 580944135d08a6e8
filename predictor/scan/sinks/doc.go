// Package sinks finds what may eat a node: fork bombs and busy loops in scripts, crypto miners, commands that fill a disk
// or take all memory, and flags that size a heap or a number of workers beyond the node.
//
// It looks at what is executed, the command and the programs of the scan, never at data: a list of mining pools in a
// threat feed, or a script that kills miners, is none. A binary counts as a miner by several independent kinds of
// evidence together, since single words of it (an algorithm, a protocol's name) are in honest programs too.
//
// This is a search for the known and the careless. A miner that is packed or encrypted is not found by it, but by what it
// does: predictor/anomaly and predictor/threat.
//
// The functions have no state and may be called from any goroutine.
package sinks
