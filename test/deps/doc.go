// Package deps holds the repository to its import law (section 3 of the design): which part may know which, what the
// pure packages may not touch, which names a package may not have. The law is a table with a reason for every ban;
// the checks are functions of what `go list` and the parser say, and a test proves each of them by breaking it.
//
// Nothing imports it: it is here for its test, which `make check` runs.
package deps
