// Package host is the shim's end of agents: it injects them into the namespaces of containers, talks to them, replaces
// those that die and ends them.
//
// A Host belongs to one shim; its methods and those of its Agents may be called from any goroutine. Nothing here
// believes an agent: answers are bounded, and what they say is handed on as a claim.
//
// The package starts processes only through Config.Start, since in a shim containerd's reaper waits for all of them.
package host
