// Package packages tests what `make packages` builds: the deb and the rpm of two versions are installed into scratch roots
// with the real dpkg and rpm, upgraded and rolled back under a running daemon, removed and purged.
//
// It is for its tests alone, which need root and what `make setup-test` installs. No package is ever installed on the
// machine itself.
package packages
