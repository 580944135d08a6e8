// Package output prints for people and for programs: tables and paragraphs that never exceed Width columns, sizes and
// times in few characters, and JSON.
//
// It knows nothing of containers or policies; the commands of cmd/forefend, its only users, decide what to print.
// Text from containers is hostile (names, messages, arguments may carry terminal escapes): everything that goes through
// Table and Wrap is made printable. Its values belong to one goroutine; its functions may be called from any.
package output

// Width is the most columns any line for people has.
const Width = 100
