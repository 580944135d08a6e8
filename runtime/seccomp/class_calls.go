package seccomp

// The lists below name calls of every architecture; a name belongs to one list
// only (a test checks it, and that no call of the tables is forgotten).

// hotCalls: data, memory, time, threads, signals and who-am-I.
const hotCalls = `
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek
open openat close close_range dup dup2 dup3 fcntl fcntl64 ioctl flock fsync fdatasync fadvise64 fadvise64_64
arm_fadvise64_64 stat fstat lstat newfstatat statx stat64 fstat64 lstat64 fstatat64 access faccessat faccessat2
readlink readlinkat getdents getdents64 getcwd sendfile sendfile64 copy_file_range splice tee vmsplice pipe pipe2
mmap mmap2 munmap mprotect mremap madvise msync mincore brk membarrier
poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64
epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 epoll_ctl_old epoll_wait_old
eventfd eventfd2 timerfd_settime timerfd_settime64 timerfd_gettime timerfd_gettime64
timer_settime timer_settime64 timer_gettime timer_gettime64 timer_getoverrun
clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep clock_nanosleep_time64 nanosleep
gettimeofday time times getitimer setitimer alarm pause
futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue set_robust_list get_robust_list
sched_yield sched_getaffinity rseq rseq_slice_yield getcpu arch_prctl set_thread_area get_thread_area set_tls cacheflush
clone fork vfork wait4 waitid waitpid exit exit_group set_tid_address restart_syscall
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
sigaction sigprocmask sigreturn sigpending sigsuspend signal sigaltstack tgkill uretprobe uprobe
getpid gettid getppid getuid geteuid getgid getegid getuid32 geteuid32 getgid32 getegid32
getresuid getresgid getresuid32 getresgid32 getgroups getgroups32 getpgid getpgrp getsid
getrandom uname sysinfo getrusage getrlimit ugetrlimit
accept accept4 sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg recvmmsg_time64 send recv shutdown
getsockname getpeername getsockopt setsockopt
io_submit io_getevents io_pgetevents io_pgetevents_time64 semop semtimedop semtimedop_time64 msgsnd msgrcv
mq_timedsend mq_timedreceive mq_timedsend_time64 mq_timedreceive_time64 ipc
`

// benignCalls: ordinary but not frequent; learned in the first runs.
const benignCalls = `
creat mkdir mkdirat rmdir rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat chown32 fchown32 lchown32
chdir fchdir umask truncate ftruncate truncate64 ftruncate64 fallocate utime utimes utimensat utimensat_time64 futimesat
statfs fstatfs statfs64 fstatfs64 openat2 readahead sync syncfs sync_file_range sync_file_range2 arm_sync_file_range cachestat
getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
timerfd_create timer_create timer_delete signalfd signalfd4
shmget shmat shmctl shmdt semget semctl msgget msgctl mq_open mq_unlink mq_notify mq_getsetattr
io_setup io_destroy io_cancel socketpair kill tkill rt_sigqueueinfo rt_tgsigqueueinfo
setpgid setsid setrlimit prlimit64 getpriority setpriority nice ioprio_get ioprio_set
sched_getparam sched_getscheduler sched_getattr sched_get_priority_max sched_get_priority_min
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setparam sched_setscheduler sched_setattr
mlock mlock2 mlockall munlock munlockall remap_file_pages mseal map_shadow_stack pkey_alloc pkey_free pkey_mprotect
get_mempolicy set_mempolicy mbind set_mempolicy_home_node process_mrelease
pidfd_open pidfd_send_signal capget prctl
landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_list_modules
statmount listmount ustat sysfs readdir sgetmask ssetmask oldstat oldfstat oldlstat olduname oldolduname
riscv_hwprobe riscv_flush_icache
`

// sensitiveCalls: legal, rare, and the steps of most attacks.
const sensitiveCalls = `
execve execveat socket socketcall connect bind listen
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid
setuid32 setgid32 setreuid32 setregid32 setresuid32 setresgid32 setgroups32 setfsuid32 setfsgid32
capset chroot mknod mknodat personality seccomp memfd_create memfd_secret name_to_handle_at
adjtimex clock_adjtime clock_adjtime64 fanotify_mark lsm_set_self_attr clone3
`

// dangerousCalls: reach into other processes or the kernel, or escape.
const dangerousCalls = `
ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise
bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
keyctl add_key request_key
mount umount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick pivot_root
unshare setns listns sethostname setdomainname
init_module finit_module delete_module create_module get_kernel_syms query_module kexec_load kexec_file_load
open_by_handle_at modify_ldt swapon swapoff reboot acct quotactl quotactl_fd iopl ioperm vm86 vm86old
clock_settime clock_settime64 settimeofday stime syslog fanotify_init lookup_dcookie vhangup
migrate_pages move_pages _sysctl uselib nfsservctl bdflush
getpmsg putpmsg afs_syscall tuxcall security vserver break ftime gtty stty idle lock mpx prof profil ulimit
pciconfig_iobase pciconfig_read pciconfig_write
`

// handshakeCalls are needed by runc (a Go program) at a moment when nobody
// answers notifications yet, or are the kernel's own. write is first among them:
// it carries the listener's number to runc's parent (runc refuses to watch it).
const handshakeCalls = `
read write close fcntl fcntl64 futex futex_time64 sendmsg recvmsg recvfrom
mmap mmap2 munmap mprotect madvise brk
rt_sigaction rt_sigprocmask rt_sigreturn sigreturn sigaltstack sched_yield nanosleep clock_gettime
epoll_ctl epoll_wait epoll_pwait getpid gettid tgkill restart_syscall exit exit_group
uretprobe uprobe
`

// footholdCalls are not dangerous in a start: entry points, service managers and supervisors make them. bind is not among
// them, a DNS resolver may bind its socket; nor is setuid, by which a new worker gives its privileges up.
const footholdCalls = `
execve execveat listen chroot mknod mknodat personality name_to_handle_at memfd_secret fanotify_mark
`
