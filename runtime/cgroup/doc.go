// Package cgroup reads what a container's control group used and what it is
// limited to, on cgroup v1, hybrid and v2, and keeps a process in a group of
// its own. It is used by the shim and by the daemon.
//
// It does not set limits (runc does) and does not create containers' groups.
//
// Where the groups are comes from github.com/opencontainers/cgroups. The
// sampling does not: that library's statistics of one container cost 143 µs
// and 425 allocations (85 KiB) on our two-core machine, because it opens every
// file anew and parses all of them. A Sampler keeps the handful of files that
// matter open and reads them in 7 µs without allocating; see BenchmarkSample.
//
// # Which memory
//
// Sample.Memory is the working set: usage without the inactive file cache,
// which is what Kubernetes evicts by and what a limit must leave room for;
// the kernel drops inactive cache before it kills. The kernel's own watermark
// of usage sees spikes between two samples, but also counts all cache: for a
// process that reads a big file once it says nothing about need. Series
// therefore joins them, see Series.
//
// A Group, Sample or Limits is plain data. A Sampler or Series belongs to one
// goroutine at a time.
package cgroup
