package e2e

import (
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// enforced is a program that runs in enforce mode from its first run on, with nothing but its scan to go by.
type enforced struct {
	container
	ready []string   // executed until it succeeds; empty: the program just has to end with 0
	work  [][]string // executed one after the other; each has to end with 0
	hup   bool       // told to reload, after which ready has to succeed again
}

// TestEnforced: what static analysis predicts is enough for real programs, under load, with reload, exec and children.
// Their first run is the only one.
func TestEnforced(t *testing.T) {
	images := []string{"busybox", "static", "redis", "nginx"}
	servers := harness.Built("servers")
	if servers {
		images = append(images, "servers")
	}
	h := newHost(t, harness.WithImages(images...), harness.WithConfig("mode = \"enforce\"\n[scan]\nfirst_scan_wait = \"60s\"\ntimeout = \"60s\"\n"))
	for name, p := range map[string]enforced{
		"busybox": {container: sh("for i in 1 2 3; do ls -l / | grep bin; done; cat /etc/passwd | wc -l; (sleep 0.1 &); wait; mkdir /tmp/a && touch /tmp/a/b && rm -r /tmp/a; date; uname -a")},
		"Go":      {container: probe("serve"), ready: []string{"/probe", "env"}},
		"redis": {container: container{image: "redis", args: []string{"redis-server", "--save", "", "--dir", "/data", "--unixsocket", "/data/s"}},
			ready: []string{"redis-cli", "-s", "/data/s", "ping"},
			work: [][]string{{"redis-benchmark", "-s", "/data/s", "-q", "-n", "20000", "-t", "set,get,lpush"}, {"redis-cli", "-s", "/data/s", "bgsave"},
				{"redis-cli", "-s", "/data/s", "bgrewriteaof"}, {"redis-cli", "-s", "/data/s", "config", "set", "maxmemory", "100mb"}}},
		"nginx": {container: container{image: "nginx", args: []string{"nginx", "-g", "daemon off;"}}, ready: []string{"sh", "-c", "test -s /run/nginx.pid"}, hup: true,
			work: [][]string{{"nginx", "-t"}, {"nginx", "-s", "reload"}, {"sh", "-c", "ls /var/www/html; cat /var/www/html/small.txt"}, {"nginx", "-s", "reopen"}}},
		"bash": {container: container{image: "redis", args: []string{"bash", "-c",
			"set -e; for i in $(seq 20); do echo $i | sed s/1/2/ | grep -c . ; done; a=$(mktemp); echo hi > $a; sort $a | tee $a.2; find /etc -name 'p*' | head -3; wait; trap 'echo end' EXIT"}}},
	} {
		t.Run(name, func(t *testing.T) { h.enforce(t, p) })
	}
	if !servers {
		t.Log("not built: the image servers (go run ./test/images -out .cache/images servers) for postgres, memcached, python3 and node")
		return
	}
	for name, p := range map[string]enforced{
		"python3": {container: container{image: "servers", args: []string{"python3", "-c",
			"import os,subprocess,threading,hashlib,socket\n" +
				"t=[threading.Thread(target=lambda: hashlib.sha256(os.urandom(1<<16)).hexdigest()) for _ in range(8)]\n[x.start() for x in t]; [x.join() for x in t]\n" +
				"print(subprocess.check_output(['ls','/']).decode())\n" +
				"os.mkdir('/tmp/d'); open('/tmp/d/x','w').write('x'); os.listdir('/tmp/d'); os.remove('/tmp/d/x'); os.rmdir('/tmp/d')\n" +
				"a,b=socket.socketpair(); a.send(b'x'); assert b.recv(1)==b'x'\npid=os.fork()\n" +
				"os._exit(0) if pid==0 else os.waitpid(pid,0)"}}},
		"node": {container: container{image: "servers", args: []string{"node", "-e",
			"const fs=require('fs'),cp=require('child_process'),crypto=require('crypto'),net=require('net');" +
				"fs.mkdtempSync('/tmp/x-');console.log(cp.execSync('ls /').toString());" +
				"const s=net.createServer(c=>c.end('hi')).listen('/tmp/s',()=>net.connect('/tmp/s').on('data',d=>{console.log(''+d);s.close()}));" +
				"crypto.pbkdf2('a','b',1000,32,'sha256',()=>console.log('done'))"}}},
		"memcached": {container: container{image: "servers", args: []string{"memcached", "-u", "nobody", "-s", "/tmp/m", "-a", "777"}},
			ready: []string{"test", "-S", "/tmp/m"},
			work: [][]string{{"python3", "-c", "import socket\ns=socket.socket(socket.AF_UNIX);s.connect('/tmp/m')\n" +
				"for i in range(2000):\n s.sendall(b'set k%d 0 0 3\\r\\nabc\\r\\n'%i); assert s.recv(99)==b'STORED\\r\\n'\ns.sendall(b'stats\\r\\n'); s.recv(4096)"}}},
		"postgres": {container: container{image: "servers", args: []string{"bash", "-c",
			// Paths in full: a program whose name is computed is one that static analysis cannot follow, and says so.
			"set -e; mkdir -p /tmp/pg; chown postgres /tmp/pg; cd /tmp; " +
				"setpriv --reuid postgres --regid postgres --clear-groups /usr/lib/postgresql/15/bin/initdb -D /tmp/pg/d >/dev/null; " +
				"exec setpriv --reuid postgres --regid postgres --clear-groups /usr/lib/postgresql/15/bin/postgres -D /tmp/pg/d -k /tmp -c listen_addresses="}},
			ready: []string{"bash", "-c", "$(echo /usr/lib/postgresql/*/bin)/pg_isready -h /tmp"},
			work:  [][]string{{"bash", "-c", "cd /tmp; B=$(echo /usr/lib/postgresql/*/bin); setpriv --reuid postgres --regid postgres --clear-groups $B/psql -h /tmp postgres -c 'create table t as select generate_series(1,50000) a' -c 'create index on t(a)' -c 'select sum(a) from t' -c 'vacuum analyze t' -c checkpoint"}}, hup: true},
	} {
		t.Run(name, func(t *testing.T) { h.enforce(t, p) })
	}
}

func (h *host) enforce(t *testing.T, p enforced) {
	if len(p.ready) == 0 {
		p.id = h.newID("enforced")
		if err := h.run(p.container).Check(); err != nil {
			t.Errorf("%v\n%s", err, h.refused(t, p.id))
		}
		h.predicted(t, p.id)
		return
	}
	id := h.start(t, p.container)
	h.predicted(t, id)
	ready := func() bool { return h.exec(id, p.ready...).Check() == nil }
	if !within(30*time.Second, ready) {
		t.Fatalf("never ready: %v\n%s", h.exec(id, p.ready...).Check(), h.refused(t, id))
	}
	for _, work := range p.work {
		if err := h.exec(id, work...).Check(); err != nil {
			t.Errorf("%q: %v\n%s", strings.Join(work, " "), err, h.refused(t, id))
		}
	}
	if p.hup {
		if err := h.Ctr("task", "kill", "-s", "SIGHUP", id).Check(); err != nil {
			t.Fatal(err)
		}
		if !within(10*time.Second, ready) {
			t.Errorf("not ready after a reload\n%s", h.refused(t, id))
		}
	}
	if row := h.row(t, id); row.Mode != "enforce" {
		t.Errorf("%+v", row)
	}
	if refused := h.refused(t, id); refused != "" {
		t.Log(refused)
	}
}

// refused says which calls of a container were denied.
func (h *host) refused(t testing.TB, id string) string {
	if calls := h.calls(t, id, "denied"); len(calls) > 0 {
		return "denied: " + strings.Join(calls, " ")
	}
	return ""
}

// predicted checks that a container's first run was decided by its scan, and logs how tight that is.
func (h *host) predicted(t testing.TB, id string) {
	t.Helper()
	out := h.Forefend("explain", id, "--all")
	text := out.Stdout
	if !strings.Contains(text, "Static analysis") {
		t.Errorf("not decided by a scan: %v\n%s", out.Err, text)
		return
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "reaches  ") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
