// Package mounts changes what the files of a running container look like: it hides paths, makes them read-only, and takes
// both back. Package shim uses it, one change of a container at a time; nothing else should.
//
// It works where the container's processes are, in their mount namespace, on a thread of its own that ends afterwards, and it
// believes nothing that it finds there. A path is walked once, with the container's root as the root of the walk and no
// magic link followed (openat2); everything after that goes by descriptor and by the mount's number. So a container that
// swaps a directory for a link meanwhile decides which of its own files is changed, and can reach nothing else: neither the
// host's files, nor a mount of its own that was not to be changed.
//
// Mounts hide names, not files: what is open stays open, and a process whose working directory has been covered goes on
// under the cover by relative paths (Standing finds those). A process with CAP_SYS_ADMIN can undo what is done here, as it can
// undo what runc does; a process that made a mount namespace of its own before the change does not see it.
//
// Walking a path can hang for as long as a FUSE or NFS server likes. A change is then given up at its deadline; the thread
// that hangs undoes, once it gets on, what it had done, and until then no other change of this container begins.
//
// Linux 5.12 is needed (mount_setattr); on older kernels changes are refused with an *UnsupportedError.
package mounts
