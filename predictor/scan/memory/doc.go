// Package memory says how much memory a program will take, before any run of it was seen: from its language runtime or
// kind of server, and from the settings that bound it on its command line, in its environment and in the configuration
// files of its image.
//
// A prior is two points of a distribution: Typical, the median peak of such a program, and High, what one in a hundred
// exceeds. Typical rests on measured servers under light load, see docs/predictor/packages.md; High rests on what the
// settings allow. A program that nothing is known of gets no prior: zero, not a guess.
//
// The function has no state and may be called from any goroutine.
package memory
