package nerdctl

import (
	"os"
	"testing"
)

// application is a real program at its ordinary work; the script says at its end what came of it.
type application struct {
	options string
	script  string // run by bash; without single quotes
	want    string
	loose   bool // what it prints holds process numbers or times
}

// TestApplications runs a few programs of the images that CI has anyway.
func TestApplications(t *testing.T) {
	h := newHost(t)
	h.load(t, "redis")
	h.runAll(t, "redis", map[string]application{
		"redis": {script: `redis-server --port 7000 --save 60 1 --dir /tmp --daemonize yes >/dev/null; until redis-cli -p 7000 ping 2>/dev/null | grep -q PONG; do sleep 0.1; done
			redis-cli -p 7000 set k v; redis-cli -p 7000 get k; redis-cli -p 7000 bgsave; redis-cli -p 7000 shutdown; ls /tmp/dump.rdb`, want: "^/tmp/dump.rdb$"},
		"dpkg": {options: "-u root", script: `cd /tmp; mkdir -p p/DEBIAN p/opt; echo x >p/opt/x
			printf "Package: zz\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n" >p/DEBIAN/control
			dpkg-deb -b p zz.deb >/dev/null && dpkg -i zz.deb >/dev/null 2>&1; cat /opt/x; dpkg -r zz | tail -1`, want: "^Removing zz"},
		"users": {options: "-u root", script: `useradd -m -u 1500 zed; id zed; echo zed:pw | chpasswd; su zed -c "id -un; touch ~/mine; ls -l ~/mine | cut -c1-10"
			runuser -u zed -- id -u; setpriv --reuid 1500 --clear-groups --no-new-privs id -u; chroot / true; chown zed /tmp; umount / ; true`, want: "^zed$"},
		"perl": {script: `perl -e "use Socket; socketpair(A, B, AF_UNIX, SOCK_STREAM, 0); if (fork) { close B; print <A>; wait; print \$? >> 8, qq(\n) } else { close A; print B qq(child\n); exit 3 }"`, want: "^3$"},
		"tools": {script: `nice -n 5 true; ionice -c3 true; taskset -c 0 true; timeout 0.2 sleep 5; echo $?; mkfifo /tmp/f; (echo through >/tmp/f) & cat /tmp/f; flock /tmp/l echo locked
			fallocate -l 1M /tmp/fa; truncate -s 2M /tmp/fa; stat -c %s /tmp/fa; chrt -f 1 true; echo $?; prlimit --nofile=512:512 bash -c "ulimit -n"; swapon -a; unshare -m true; echo $?`, want: "^locked$"},
	})
}

// TestApps runs more programs, of an image that takes minutes to build: `make test-apps`.
func TestApps(t *testing.T) {
	if os.Getenv("FOREFEND_APPS") != "1" {
		t.Skip("real applications in a large image: run make test-apps")
	}
	h := newHost(t)
	h.load(t, "apps")
	h.runAll(t, "apps", map[string]application{
		"postgres": {options: "-u postgres", script: `export PATH=$PATH:/usr/lib/postgresql/15/bin; initdb -D /tmp/pg >/dev/null 2>&1; pg_ctl -D /tmp/pg -o "-k /tmp" -l /tmp/log -w start >/dev/null
			psql -h /tmp -tAc "create table t(a int); insert into t select generate_series(1,1000); select sum(a) from t"; pg_ctl -D /tmp/pg -m fast -w stop >/dev/null`, want: "^500500$"},
		"mariadb": {options: "-u mysql", script: `mkdir /tmp/my; mariadb-install-db --datadir=/tmp/my --auth-root-authentication-method=normal >/dev/null 2>&1
			mariadbd --datadir=/tmp/my --socket=/tmp/s --pid-file=/tmp/p --skip-networking >/tmp/log 2>&1 &
			for i in $(seq 300); do mysql -uroot -S /tmp/s -e "select 1" >/dev/null 2>&1 && break; sleep 0.2; done
			mysql -uroot -S /tmp/s -N -e "create database d; use d; create table t(a int); insert into t values(1),(2); select sum(a) from t"
			mysqladmin -uroot -S /tmp/s shutdown; wait`, want: "^3$"},
		"memcached": {options: "-u nobody", script: `memcached -p 11211 -U 0 & until printf "set k 0 0 3\r\nabc\r\nget k\r\nquit\r\n" | nc -q1 127.0.0.1 11211; do sleep 0.1; done; kill %1`, want: "^abc$"},
		"python": {script: `python3 -c "
import os, socket, subprocess, threading
print(subprocess.check_output([\"echo\", \"sub\"]))
n = []
ts = [threading.Thread(target=lambda: n.append(1)) for _ in range(20)]
[t.start() for t in ts]; [t.join() for t in ts]; print(len(n))
a, b = socket.socketpair(); a.send(b\"x\"); print(b.recv(1))
f = os.memfd_create(\"x\"); os.write(f, b\"y\"); print(os.fstat(f).st_size, os.pidfd_open(os.getpid()) > 0)
"`, want: "^20$"},
		"node": {script: `node -e "
const { Worker } = require(\"worker_threads\"), http = require(\"http\");
console.log(require(\"child_process\").execSync(\"echo hi\").toString().trim());
const s = http.createServer((q, r) => r.end(\"served\")).listen(8080, () => http.get(\"http://127.0.0.1:8080\", r => {
  r.on(\"data\", d => console.log(String(d)));
  r.on(\"end\", () => { s.close(); new Worker(\"console.log(42)\", { eval: true }).on(\"exit\", c => process.exit(c)) }) }))"`, want: "^42$"},
		"sshd": {script: `mkdir -p /run/sshd; ssh-keygen -qA >/dev/null; ssh-keygen -q -t ed25519 -N "" -f /root/.ssh/id; cp /root/.ssh/id.pub /root/.ssh/authorized_keys
			mkdir -p /home/app/.ssh; cp /root/.ssh/id.pub /home/app/.ssh/authorized_keys; chown -R app /home/app/.ssh; /usr/sbin/sshd -p 2222
			s="ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR -i /root/.ssh/id -p 2222"; $s 127.0.0.1 id -un; $s app@127.0.0.1 id -un; $s -tt 127.0.0.1 tty
			echo "get /etc/hostname /tmp/h" | sftp -q -o StrictHostKeyChecking=no -i /root/.ssh/id -P 2222 root@127.0.0.1 >/dev/null; wc -l </tmp/h`, want: "(?s)^root$.*^app$.*^/dev/pts/0$"},
		"build": {script: `cd /tmp; printf "#include <stdio.h>\nint main(){puts(\"built\");}\n" >a.c; printf "a: a.c\n\tgcc -O2 -o a a.c\n" >Makefile; make -s && ./a`, want: "^built$"},
		"leak checker": {script: `cd /tmp; printf "#include <stdlib.h>\nint main(){volatile char*p=malloc(10);p=0;return 0;}\n" >a.c; gcc -fsanitize=address -g -o a a.c && ./a 2>&1 | grep -o "LeakSanitizer: .*"`,
			want: "^LeakSanitizer: detected memory leaks$"},
		"git": {script: `cd /tmp; git init -q r; cd r; git config user.email a@b; git config user.name n; echo 1 >f; git add f; git commit -qm c; git clone -q /tmp/r /tmp/r2; git -C /tmp/r2 log --oneline | wc -l
			git gc -q; git daemon --reuseaddr --base-path=/tmp --export-all /tmp & until git clone -q git://127.0.0.1/r /tmp/r3 2>/dev/null; do sleep 0.1; done; echo cloned; kill %1`, want: "^cloned$"},
		"ping":   {script: `ping -c1 -W5 127.0.0.1 | grep -c "1 received"; su app -c "ping -c1 127.0.0.1 | grep -c \"1 received\""`, want: "^1$"},
		"strace": {script: `strace -f -o /tmp/o sh -c "ls / >/dev/null; true"; echo $?; grep -c execve /tmp/o; strace -e trace=write echo hi 2>&1 | grep -o "^write(1, .hi.n"; strace -f --seccomp-bpf -e trace=execve -o /tmp/b sh -c "ls / >/dev/null; true"; grep -c "^[0-9]* *execve(" /tmp/b`, want: `^write\(1`},
		"gdb": {script: `cd /tmp; printf "int f(int a){return a+1;}\nint main(){return f(3);}\n" >a.c; gcc -g -o a a.c; gdb -q -batch -ex "break f" -ex run -ex "print a" -ex c ./a 2>&1 | grep -o "^.1 = 3\|exited with code 04"`,
			want: "exited with code 04"},
		"attach with a capability": {options: "--cap-add SYS_PTRACE", script: `sleep 100 & (timeout -s INT 1 strace -p $! -o /tmp/o 2>/dev/null); kill %1; test -s /tmp/o && echo traced`, want: "^traced$"},
		"tcpdump":                  {script: `tcpdump -i lo -c 1 -nn icmp >/tmp/o 2>/tmp/e & until grep -q listening /tmp/e; do sleep 0.1; done; ping -c2 -i 0.3 127.0.0.1 >/dev/null; wait; grep -c ICMP /tmp/o`, want: "^1$"},
		"bubblewrap":               {script: `bwrap --ro-bind / / --dev /dev --unshare-all true; echo $?`, want: "^1$"}, // stock's profile forbids it
		"bubblewrap unconfined":    {options: "--security-opt seccomp=unconfined --cap-add SYS_ADMIN", script: `bwrap --ro-bind / / --unshare-pid --proc /proc sh -c "echo in; id -u"; echo $?`, want: "^in$"},
		"namespaces":               {options: "--cap-add SYS_ADMIN", script: `unshare -m true && unshare -U -r id -u; unshare -p -f sh -c "echo \$\$"; nsenter -t 1 -m true; echo $?`, want: "^0$"},
		"su and sudo":              {script: `su app -c id; sudo -u app id -un; su app -c "sudo id -un"`, want: "^root$"},
		"cron":                     {script: `echo "* * * * * root true" >/etc/cron.d/x; cron; until pgrep -c cron; do sleep 0.1; done; crontab -l 2>&1 | head -1`, want: "^1$"},
		"ranks": {script: `cd /tmp; export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; mpirun --oversubscribe -np 3 sh -c "echo rank \$OMPI_COMM_WORLD_RANK" 2>&1 | sort`,
			want: "^rank 2$"},
		"looking around": {script: `free -m | head -1; ps aux | wc -l; ss -ltn | wc -l; ip addr show lo | grep -c 127; top -bn1 | head -1 | cut -c1-5; sysctl -n kernel.ostype; lsns 2>/dev/null | wc -l; script -qc "echo tty" /dev/null`, want: "^Linux$"},
	})
}

// runAll runs each application in an image, under both runtimes.
func (h *host) runAll(t *testing.T, image string, all map[string]application) {
	for name, a := range all {
		t.Run(name, func(t *testing.T) {
			h.same(t, step{args: "run --rm --name NAME RUNTIME " + a.options + " " + image + " bash -c '" + a.script + "'", want: a.want, code: anyCode, loose: a.loose})
		})
	}
}
