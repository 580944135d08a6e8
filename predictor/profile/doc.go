// Package profile is what users and groups did: how many of their runs were refused something, behaved unlike before,
// reached for listed addresses, ran out of memory, failed, and how much more they ask for than they use. From that comes
// a trust between 0 and 1, of which a stranger has 0.5.
//
// It also remembers what earlier runs of a workload were caught at (Book.Past), so that its next one is judged by it.
//
// What a user or group may request is the site's business (the profiles of config.toml), not this package's.
//
// A Book is loaded from its snapshot in the store and the runs after it, within a second; a daemon that was killed reads
// a few more runs. It may be used from any goroutine, and answers from memory.
package profile
