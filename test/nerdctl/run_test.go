package nerdctl

import (
	"testing"
)

const whoAmI = `sh -c 'grep -E "^(Cap|NoNewPrivs|Groups|Uid|Gid|Umask|Seccomp:)" /proc/self/status; id; pwd; env | grep -v ^HOST | sort; ulimit -n'`

// TestRun is every option of `nerdctl run` that changes what a process finds.
func TestRun(t *testing.T) {
	h := newHost(t)
	for name, c := range map[string]struct {
		args string
		want string
		code int
	}{
		"plain":           {"busybox " + whoAmI, `^CapEff:\t00000000a80425fb$`, 0},
		"exit status":     {"busybox sh -c 'exit 7'", "", 7},
		"killed":          {"busybox sh -c 'kill -9 $$; sleep 1; exit 3'", "", 3}, // PID 1 cannot kill itself
		"no such program": {"busybox nosuchprogram", "executable file not found", 1},
		"not a program":   {"busybox /etc/passwd", "permission denied", 1},
		"standard error":  {"busybox sh -c 'echo out; echo err >&2'", "^err$", 0},
		"environment":     {"-e A=b --env C=d -w /tmp busybox " + whoAmI, "(?s)^/tmp$.*^A=b$.*^C=d$", 0},
		"new directory":   {"-w /made/here busybox pwd", "^/made/here$", 0},
		"user":            {"-u 1000:1001 busybox " + whoAmI, `^Uid:\t1000\t`, 0},
		"user by name":    {"-u nobody busybox id", "^uid=65534", 0},
		"no such user":    {"-u nosuch busybox id", "no users found", 1},
		"groups":          {"-u 33 --group-add 5 --group-add 7 busybox " + whoAmI, `^Groups:\t5 7 33 $`, 0},
		"umask":           {"--umask 027 busybox sh -c 'umask; touch /f; ls -l /f'", "^0027$", 0},
		"entrypoint":      {"--entrypoint /bin/echo busybox a b", "^a b$", 0},
		"hostname":        {"--hostname hh --domainname d.example busybox sh -c 'hostname; cat /proc/sys/kernel/domainname'", "^hh$", 0},
		"names": {"--add-host foo:1.2.3.4 --dns 9.9.9.9 --dns-search x.y --dns-opt ndots:3 busybox sh -c 'grep foo /etc/hosts; cat /etc/resolv.conf'",
			"^nameserver 9.9.9.9$", 0},
		"init": {"--init --init-binary tini-static busybox ps -o args", "tini", 0},

		"read-only":        {"--read-only busybox sh -c 'touch /x'", "Read-only file system", 1},
		"tmpfs":            {"--read-only --tmpfs /t:size=1m,mode=1777 busybox sh -c 'touch /t/x; grep \" /t \" /proc/mounts'", "size=1024k", 0},
		"shared memory":    {"--shm-size 8m busybox df -k /dev/shm", "^shm +8192 ", 0},
		"masked paths":     {"busybox sh -c 'ls /proc/acpi /proc/scsi; cat /proc/kcore /proc/keys; echo 1 >/proc/sys/vm/drop_caches; grep -E \" /(proc|sys|dev)\" /proc/mounts | sort'", "Read-only", 0},
		"unmasked paths":   {"--security-opt systempaths=unconfined busybox sh -c 'grep -cE \" /proc/\" /proc/mounts; ls /proc/acpi'", "^0$", 0},
		"writable cgroups": {"--security-opt writable-cgroups=true busybox sh -c 'mkdir /sys/fs/cgroup/pids/x && rmdir /sys/fs/cgroup/pids/x; echo $?'", "^0$", 0},

		"capability added":      {"--cap-add NET_ADMIN busybox sh -c 'ip link set lo down && ip link set lo up && ip link add name br0 type bridge && ip link show br0 | wc -l'", "^2$", 0},
		"capability dropped":    {"--cap-drop CHOWN busybox sh -c 'chown 1 /tmp'", "Operation not permitted", 1},
		"all dropped":           {"--cap-drop ALL busybox " + whoAmI, `^CapBnd:\t0+$`, 0},
		"all but one":           {"--cap-drop ALL --cap-add CHOWN busybox sh -c 'chown 1 /tmp; ping -c1 127.0.0.1'", "", 1},
		"all capabilities":      {"--cap-add ALL busybox " + whoAmI, "", 0},
		"administrator":         {"--cap-add SYS_ADMIN busybox sh -c 'mount -t tmpfs none /tmp && unshare -m true && hostname xy && hostname'", "^xy$", 0},
		"not administrator":     {"busybox sh -c 'unshare -m true; mount -t tmpfs none /tmp; hostname xy; chroot / true'", "", 0},
		"no new privileges":     {"--security-opt no-new-privileges busybox " + whoAmI, `^NoNewPrivs:\t1$`, 0},
		"unconfined":            {"--security-opt seccomp=unconfined busybox " + whoAmI, `^Seccomp:\t0$`, 0},
		"unconfined namespaces": {"--security-opt seccomp=unconfined busybox sh -c 'unshare -r id -u && unshare -rm mount -t tmpfs none /tmp'", "^0$", 0},
		"profile":               {"--security-opt seccomp=DIR/deny-mkdir.json busybox sh -c 'grep Seccomp: /proc/self/status; touch /a; mkdir /b'", "Operation not permitted", 1},
		"no such profile":       {"--security-opt seccomp=DIR/nosuch.json busybox true", "no such file", 1},
		"privileged":            {"--privileged busybox " + whoAmI, `^Seccomp:\t0$`, 0},
		"privileged devices":    {"--privileged busybox sh -c 'ls /dev | wc -l; grep -E \" /(proc|sys)\" /proc/mounts | sort; mount -t tmpfs none /tmp && hostname xx && ls /proc/keys'", "/proc/keys", 0},

		"memory":            {"--memory 64m busybox sh -c 'cd /sys/fs/cgroup/memory 2>/dev/null && cat memory.limit_in_bytes memory.memsw.limit_in_bytes || cat /sys/fs/cgroup/memory.max'", "^67108864$", 0},
		"memory and swap":   {"--memory 64m --memory-swap 96m --memory-reservation 32m busybox sh -c 'cd /sys/fs/cgroup/memory 2>/dev/null && cat memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes || cat /sys/fs/cgroup/memory.max'", "^67108864$", 0},
		"out of memory":     {"--memory 16m busybox sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1; exit $?'", "", 137},
		"kernel memory":     {"--memory 64m --kernel-memory 32m busybox true", "", 0},
		"cpus":              {"--cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 --cpuset-mems 0 busybox sh -c 'cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.shares cpuset/cpuset.cpus 2>/dev/null || cat cpu.max cpu.weight cpuset.cpus; nproc'", "^1$", 0},
		"cpu quota":         {"--cpu-quota 20000 --cpu-period 50000 busybox sh -c 'cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us 2>/dev/null || cat cpu.max'", "20000", 0},
		"pids":              {"--pids-limit 50 busybox sh -c 'cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max'", "^50$", 0},
		"too many pids":     {"--pids-limit 5 busybox sh -c 'for i in 1 2 3 4 5 6; do sleep 1 & done; echo done; wait'", "", 2},
		"unlimited pids":    {"--pids-limit -1 busybox sh -c 'cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max'", "^max$", 0},
		"block weight":      {"--blkio-weight 300 busybox sh -c 'cat /sys/fs/cgroup/blkio/blkio*weight || true'", "", 0},
		"more likely to go": {"--oom-score-adj 500 busybox cat /proc/self/oom_score_adj", "^500$", 0},
		"files":             {"--ulimit nofile=1000:2000 --ulimit core=0 busybox sh -c 'ulimit -a; ulimit -Hn'", "^2000$", 0},
		"kernel settings":   {"--sysctl net.ipv4.ip_unprivileged_port_start=0 --sysctl kernel.msgmax=1000 busybox sh -c 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax'", "^1000$", 0},
		"foreign setting":   {"--sysctl kernel.panic=1 busybox true", "not in a separate kernel namespace", 1},
		"device":            {"--device /dev/null:/dev/xnull:rw busybox sh -c 'ls -l /dev/xnull | cut -c1-10; echo a >/dev/xnull'", "^crw", 0},
		"no such device":    {"--device /dev/nosuch busybox true", "", 1},
		"own device":        {"busybox sh -c 'mknod /tmp/n c 1 3 && echo a >/tmp/n; mknod /tmp/k c 1 2 && cat /tmp/k'", "Operation not permitted", 1},

		"host processes": {"--pid host busybox sh -c 'ps | grep -c \"[c]ontainerd --config\" | grep -v ^0$ >/dev/null; echo $?; readlink /proc/self/ns/pid'", "^0$", 0},
		"host ipc":       {"--ipc host busybox readlink /proc/self/ns/ipc", "", anyCode},
		"shared ipc":     {"--ipc shareable busybox true", "", 0},
		"host names":     {"--uts host busybox hostname", "", 0},
		"host network":   {"--net host busybox ip -o link", "nerdctl0", 0},
		"no network":     {"--net none busybox ip -o link", "LOOPBACK", 0},
		"bridge":         {"busybox sh -c 'ip -o addr show eth0 | cut -d\" \" -f2 | sort -u; ip route | wc -l; ping -c1 -W5 10.4.0.1 | grep -c \"0% packet loss\"'", "^1$", 0},
		"host cgroup":    {"--cgroupns host busybox cat /proc/self/cgroup", "ID", 0},
		"private cgroup": {"--cgroupns private busybox cat /proc/self/cgroup", ":/$", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "profile" {
				h.write(t, "deny-mkdir.json", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`)
			}
			h.same(t, step{args: "run --rm --name NAME RUNTIME " + c.args, want: c.want, code: c.code})
		})
	}
}
