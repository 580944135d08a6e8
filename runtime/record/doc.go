// Package record keeps what must outlive a process: the record of each
// container under Forefend, and the sealed policy files that a shim falls back
// to while no daemon answers.
//
// A record is written by the shim before it makes the first thing that would
// need cleaning up, and is read by the separate delete process, by the daemon
// after a restart and by garbage collection. Sealed files are written by the
// daemon and read by shims.
//
// Files are replaced atomically, so readers in other processes see a whole old
// or a whole new one. They are deliberately not fsync'd: a machine that loses
// power loses its containers too, and what a power cut leaves half written is
// recognised (JSON that does not parse, a checksum that does not match) and
// reported as ErrDamaged. An fsync would cost every Create milliseconds.
//
// The package is not a database: it has no index, no locks and no cache. All
// values are stateless and may be used from any goroutine and process; two
// writers of one container are the caller's bug, the last one wins.
package record
