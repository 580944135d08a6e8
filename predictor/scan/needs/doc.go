// Package needs says which capabilities a command is likely to need and on which ports it is seen to listen: from its
// flags and configuration, from the programs that it may execute, and from the marks on their files (setuid, file
// capabilities).
//
// Both are likelihoods for the merge with a request, not permissions: a capability that is not listed may still be needed
// by code that makes up its mind at run time. The system calls alone say little, as libraries reach most of them; so a
// capability is listed for a reason that can be named, and each entry names it.
//
// The functions have no state and may be called from any goroutine.
package needs
