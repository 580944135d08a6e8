// Package sandbox holds the static analysis in: forefend-scan parses files that a stranger made, in libraries that were
// not written for it, so whatever takes it over must find nothing to take.
//
// It has two ends. Run is the parent's: it starts the scanner in namespaces of its own with bounded time, memory and
// output, and reads the scan it prints. Enter is the child's: called by forefend-scan before it opens the first file of
// the image, it gives up everything but reading below the given paths, and there is no way back. A scanner that is
// started by hand calls Enter too and so is held as well, but for the namespaces and the deadline.
//
// What each layer is for, so that none of them alone decides:
//
//	Landlock        files: read below the root filesystem, nothing else; TCP, abstract sockets, signals to others
//	seccomp         a list of some 60 calls: no socket, fork, exec, ptrace, mount, executable memory
//	namespaces      no interface to send by, no process to see (by Run, with root)
//	user and caps   uid 65534 without a capability but CAP_DAC_READ_SEARCH (with root)
//	rlimits         memory, processor time, descriptors, no core
//	Run             wall time, length of the output
//
// CAP_DAC_READ_SEARCH stays until the end because the analysis learns from one file which one to open next (a library
// names its libraries, a script its commands). It is worth little: Landlock has the last word on what can be opened.
//
// Run may be used from any goroutine. Enter concerns the whole process, all threads of it.
package sandbox
