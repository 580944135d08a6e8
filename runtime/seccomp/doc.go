// Package seccomp turns tiers of system calls into an OCI seccomp profile and
// supervises the calls that the profile hands to user space.
//
// Every call a container's requested profile allows gets a Verdict. Native calls
// run at full speed in the kernel. Watched and denied ones become
// SCMP_ACT_NOTIFY: the shim's Supervisor answers each with the Table that
// Compile made, so both stay visible and can be switched on a running
// container. The result is never wider than the requested profile.
//
// What it is not for: it does not choose verdicts (runtime/policy and the
// orchestrator do), and it never decides by what a pointer points at, because
// another thread of the caller can change that after the decision.
//
// Limits worth knowing. An answer outlives no supervisor: when the last listener
// descriptor closes the kernel answers ENOSYS. A signal handler that interrupts a
// waiting watched call makes it restart, or fail with EINTR where the handler was
// installed without SA_RESTART, even for calls that never return EINTR otherwise;
// the kernel's cure (WAIT_KILLABLE_RECV) needs libseccomp 2.6.
//
// Verdict, Class, Compile and Table are values: safe from any goroutine, and a
// Table may be shared once nobody calls SetVerdict on it any more. Supervisor and
// Container may be used from any goroutine; Config.OnEvent is called from one.
package seccomp
