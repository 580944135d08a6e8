// Package bundle reads and replaces the config.json of an OCI bundle, and says
// whether runc will accept it.
//
// Load gives a typed view that may be changed freely; Commit makes the same
// changes in the file and nothing else: fields this version of the OCI spec does not
// know survive at every level, numbers keep their spelling, and the file is replaced in
// one step. The original stays beside it, and Restore puts it back.
//
// What a policy changes in a spec is package rewrite's business; where the root
// filesystem comes from is runtime/rootfs's.
//
// A Bundle belongs to one goroutine at a time. Bundle directories belong to
// root, as containerd makes them; what is in config.json is not trusted.
package bundle
