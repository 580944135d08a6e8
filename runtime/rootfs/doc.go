// Package rootfs looks into a container's root filesystem before it is
// mounted: through the directories of the snapshot that containerd hands to the
// shim. It finds the program PID 1 will run, and tells whether a run wrote to
// its root filesystem. It is used by the shim and by the daemon.
//
// It sees the image, not what else will be mounted over it: a program that
// comes from a volume is not found, or another one below the volume is. Only
// overlay and bind snapshots are understood; for others it looks into the
// bundle's rootfs, which is empty until the snapshot is mounted.
//
// Trees are hostile. Every name is resolved one component at a time by openat2
// relative to a layer and without following any symbolic link; links are
// interpreted by this package, inside the container's root. So nothing outside
// the layers can be reached, also while somebody changes them. Only regular
// files are ever opened for reading, through the descriptor that was examined.
// Links, components, layers and bytes are bounded.
//
// A Tree is plain data; a Cache may be used from any goroutine.
package rootfs
