// Package notify takes the messages of sd_notify(3) from the processes of a container, on an abstract socket of its
// network namespace: no file is needed, and only who is in that namespace can send.
//
// A message is what any process in there cares to write. It is bounded in size and number, who sent it is the kernel's
// word (SCM_CREDENTIALS), descriptors that come along are closed, and what it says is a claim: at most it becomes a
// request, which loosens nothing that the container's profile does not grant.
package notify
