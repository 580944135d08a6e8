// Package agent is Forefend's process in the network namespace of a container: it answers the shim's calls, looks at
// the sockets in there and takes the application's messages. cmd/forefend-agent is its main.
//
// # What it is made of
//
// The shim starts it between create and start, or when a container has lived long enough to be worth it
// (docs/decisions/0053), in the container's network, mount, ipc and uts namespaces. It stays outside of the PID
// namespace, in a cgroup of its own, as a user that nobody else is, with CAP_NET_ADMIN alone, no new privileges, not
// dumpable, an empty root directory and a filter of the system calls it needs: no file can be opened, no program
// executed, no namespace entered. Its only way out is the channel on descriptor 3.
//
// # Threats
//
// Who may attack whom, with what, and what stops it; docs/decisions/0054 has the whole table.
//
//   - The container against the agent. It cannot name it: another PID namespace, no path, no port; the one socket that
//     it can send to is the application's (package notify), bounded in size and rate, by the kernel's word on who sends.
//     In a container with the host's PID namespace it sees a process of another user that it cannot trace, and can kill
//     where it holds CAP_KILL over the host; the shim then starts another within 100 ms.
//   - The container through the agent. The agent reads nothing of the container's files, not even as its libraries
//     start: its root is an empty directory. What it reads of the container are the kernel's socket lists and bounded messages.
//   - A taken-over agent against the shim. It can say what it likes on its channel. Records are authenticated, ordered,
//     bounded in size and rate (package channel); each answer is checked against what was asked. All it says is a claim: the shim
//     passes requests on as the application's own, which loosen only what a profile grants.
//   - A taken-over agent against the egress policy. What it says of a request is a claim, but not whose it is: the daemon verifies tokens
//     itself, the shim knows the containers of its pod, and gives it tunnels only that a decision let something out by
//     (docs/decisions/0081). Within these it can send what it likes.
//   - A taken-over agent against the node. CAP_NET_ADMIN counts for the namespace its sockets belong to. All of them, the
//     channel's included, are made inside of the container's network namespace, and the filter knows no way to another.
//   - A third with a descriptor of the channel. It has no key: each start has a new one, in a sealed memfd that
//     is read and closed first. What it writes ends the channel, is counted and raises the container's risk.
//   - The agent against the container, by accident. It holds no process of the container, and no mount of it once the shim ends it, which
//     it does when the container exits, by SIGKILL: a stopped agent holds up nothing. When the shim dies the channel ends, and
//     the agent with it; one that was stopped is ended by the delete command or the daemon, from the record.
package agent
