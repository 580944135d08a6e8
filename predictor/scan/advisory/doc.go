// Package advisory finds the known vulnerabilities of a package version, offline, in OSV records
// (https://ossf.github.io/osv-schema/) as the bulk export has them: a zip of JSON files, or a directory with such zips or
// with JSON files, one per ecosystem or all together.
//
// The records are a few hundred megabytes; a scan wants a few hundred of them. Build writes what matters of them once into
// one file, sorted by package, and Open maps that file: a look-up reads a few pages. Build is streaming and bounded
// (size and number of records); a record that cannot be read is counted and left out.
//
// Versions are compared by each ecosystem's own rules, github.com/google/osv-scalibr/semantic. A version or a range that
// these rules cannot read is not guessed at: such a record matches by its list of versions alone.
//
// An Index may be used from any goroutine until it is closed.
package advisory
