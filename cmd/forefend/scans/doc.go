// Package scans keeps what static analysis says of the images of this node: it runs the scanner, one image at a time and
// in its sandbox, when containerd tells of a container or an image, and remembers the results by content on disk.
//
// Lookup answers from memory or one small file and never waits for a scan; Await does. Nothing here reads a file of an
// image: that is the child's, cmd/forefend-scan. A Scans may be used from any goroutine.
package scans
