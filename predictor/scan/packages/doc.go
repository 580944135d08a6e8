// Package packages lists what is installed in a root filesystem, who owns which file, and which known vulnerabilities
// that has: dpkg (also distroless), apk, rpm, Go modules in binaries, npm and PyPI.
//
// The databases are read by the extractors of github.com/google/osv-scalibr, given one file each rather than let loose on
// the tree: walking is this package's, because a scan has a second, because links must stay inside the container, and
// because directories that hold no packages are most of an image. Package rpmfile says why rpm is read by the library
// below scalibr's extractor.
//
// A vulnerability is reachable when code of its package may be run by the command: one of the package's files is a program
// of the scan, or, of an interpreted language, the interpreter is and would find the package. What is installed but out of
// reach is listed too: an attacker who gets a shell finds it.
//
// All functions may be called from any goroutine.
package packages
