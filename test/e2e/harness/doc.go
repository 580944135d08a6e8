// Package harness gives tests, the demonstration and the benchmark a containerd of their own: real, built from source
// by `make setup`, with root, state, sockets, namespace and Forefend configuration under one short temporary
// directory, and taken down without a trace. It works from what it finds on the machine (processes, mounts, cgroups,
// sockets), never from what it believes to have started, so that it can also say what a runtime left behind.
//
// World and Gateway are what the networks of its containers lead to: namespaces with servers, and WireGuard peers with a world behind
// each. Nothing that containers send leaves them.
//
// It is not for the machine's own containerd, and it decides nothing about policies: what a test wants from Forefend
// goes into the options or onto the command line.
//
// Start and New may be called from any goroutine, several environments may live side by side, and all methods of an
// Env but Close may be called concurrently, those of a World may not. An environment whose process died without Close is
// removed by the next Start on the machine.
package harness
