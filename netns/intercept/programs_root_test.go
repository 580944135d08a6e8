package intercept

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/test/network"
)

// TestClientPrograms has programs speak through the engine whose protocols are their own: what they fetch has to be what was there,
// and to have come by the tunnel.
func TestClientPrograms(t *testing.T) {
	if !inside(t) {
		return
	}
	w := newWorld(t)
	w.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Host == "b.test" || c.Protocol == flow.Opaque && c.Destination.Port() == 3306 {
			return endpoint("b"), nil
		}
		return endpoint("a"), nil
	})
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	t.Run("requests", func(t *testing.T) { w.requests(t, dir) })
	t.Run("git", func(t *testing.T) { w.git(t, dir) })
	t.Run("apt", func(t *testing.T) { w.apt(t, dir) })
	t.Run("psql", func(t *testing.T) { w.psql(t) })
	t.Run("ssh", func(t *testing.T) { w.ssh(t, dir) })
	t.Run("a database that speaks first", func(t *testing.T) { w.mysql(t) })
	for _, f := range w.Flows() {
		if !f.Verified || f.Tunnel == "" {
			t.Errorf("%+v", f)
		}
	}
	if c := w.Counters(); len(c.Malformed) > 0 {
		t.Errorf("%+v", c)
	}
}

// requests uses pools of python's two libraries, with both hosts over one of them.
func (w *world) requests(t *testing.T, dir string) {
	w.web(w.listen(80), "web")
	file := filepath.Join(dir, "body")
	must(t, os.WriteFile(file, pattern(bodySize), 0o644))
	got := w.run(t, "/usr/bin/python3", "-c", `
import sys, hashlib, requests, urllib3
from concurrent.futures import ThreadPoolExecutor
url, path = sys.argv[1], sys.argv[2]
body = open(path, "rb").read()
s = requests.Session()
s.trust_env = False
s.mount("http://", requests.adapters.HTTPAdapter(pool_connections=2, pool_maxsize=4))
def post(i):
    return s.post(url + "/sum", data=body, headers={"Host": "b.test" if i % 2 else "a.test"}).text
def get(i):
    r = s.get(url + "/bytes", headers={"Range": "bytes=%d-" % i} if i else {})
    return hashlib.sha256(body[i:]).digest() == hashlib.sha256(r.content).digest()
with ThreadPoolExecutor(4) as e:
    for line in e.map(post, range(8)): print(line, end="")
    print(all(e.map(get, range(8))))
print(s.post(url + "/sum", data=iter([body[:77777], body[77777:]])).text, end="")
print(sum(1 for l in s.get(url + "/events", stream=True).iter_lines() if l))
p = urllib3.PoolManager(maxsize=4)
r = p.request("GET", url + "/bytes", preload_content=False)
n = hashlib.sha256()
for chunk in r.stream(65536): n.update(chunk)
print(n.hexdigest() == hashlib.sha256(body).hexdigest())
`, "http://"+server4, file)
	sum := fmt.Sprintf("%d %x\n", bodySize, sha256.Sum256(pattern(bodySize)))
	want := strings.Repeat("web POST "+inside4+" "+sum+"web POST "+other4+" "+sum, 4) + "True\nweb POST " + inside4 + " " + sum + "3\nTrue\n"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// byTunnel fails the test where a request does not come by tunnel "a".
type byTunnel struct {
	t testing.TB
	http.Handler
}

func (b byTunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != inside4 {
		b.t.Errorf("%s comes from %s", r.URL, r.RemoteAddr)
	}
	b.Handler.ServeHTTP(w, r)
}

// git clones, pushes and clones again over smart HTTP.
func (w *world) git(t *testing.T, dir string) {
	root, work := filepath.Join(dir, "git"), filepath.Join(dir, "work")
	do := func(args ...string) string {
		return w.run(t, "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@t.test", "-c", "init.defaultBranch=main", "-c", "safe.directory=*", "-c", "protocol.version=2"}, args...)...)
	}
	do("init", "--quiet", "--bare", root+"/r.git")
	do("-C", root+"/r.git", "config", "http.receivepack", "true")
	backend := strings.TrimSpace(w.run(t, "git", "--exec-path")) + "/git-http-backend"
	l := w.listen(8081)
	s := &http.Server{Handler: byTunnel{t, &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}}}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	url := "http://" + server4 + ":8081/r.git"
	do("clone", "--quiet", url, work)
	must(t, os.WriteFile(work+"/large", pattern(bodySize), 0o644))
	must(t, os.WriteFile(work+"/small", []byte("x"), 0o644))
	do("-C", work, "add", ".")
	do("-C", work, "commit", "--quiet", "-m", "c")
	do("-C", work, "push", "--quiet", url, "HEAD:main") // 3 MiB: chunked, with Expect or a probe before
	do("clone", "--quiet", "-b", "main", url, work+"2")
	if got, err := os.ReadFile(work + "2/large"); err != nil || !bytes.Equal(got, pattern(bodySize)) {
		t.Errorf("cloned %d bytes: %v", len(got), err)
	}
}

// apt updates from a repository of one package, and fetches that with others in one pipeline.
func (w *world) apt(t *testing.T, dir string) {
	repository, state := filepath.Join(dir, "repository"), filepath.Join(dir, "apt")
	for _, d := range []string{repository, state + "/lists/partial", state + "/archives/partial", state + "/etc/apt.conf.d", state + "/etc/preferences.d", state + "/etc/trusted.gpg.d"} {
		must(t, os.MkdirAll(d, 0o755))
	}
	const packages = 12
	var index strings.Builder
	var names []string
	for i := range packages {
		name := fmt.Sprintf("forefend-test-%d", i)
		names = append(names, name)
		b := pattern(100_000 + i)
		must(t, os.WriteFile(filepath.Join(repository, name+".deb"), b, 0o644))
		fmt.Fprintf(&index, "Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t.test>\nDescription: t\nFilename: ./%s.deb\nSize: %d\nSHA256: %x\n\n", name, name, len(b), sha256.Sum256(b))
	}
	must(t, os.WriteFile(repository+"/Packages", []byte(index.String()), 0o644))
	l := w.listen(8082)
	s := &http.Server{Handler: byTunnel{t, http.FileServer(http.Dir(repository))}}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	must(t, os.WriteFile(state+"/etc/sources.list", []byte("deb [trusted=yes] http://"+server4+":8082/ ./\n"), 0o644))
	must(t, os.WriteFile(state+"/status", nil, 0o644))
	options := []string{"-o", "Dir::Etc=" + state + "/etc", "-o", "Dir::State=" + state, "-o", "Dir::State::status=" + state + "/status", "-o", "Dir::Cache=" + state,
		"-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Pipeline-Depth=10", "-o", "Acquire::Languages=none", "-o", "Acquire::http::Proxy=DIRECT"}
	w.run(t, "apt-get", append(options, "-qq", "update")...)
	into := filepath.Join(dir, "debs")
	must(t, os.Mkdir(into, 0o755))
	w.run(t, "sh", append([]string{"-c", `cd "$1"; shift; exec apt-get "$@"`, "sh", into}, append(append(options, "-qq", "download"), names...)...)...)
	for i, name := range names {
		got, err := os.ReadFile(filepath.Join(into, name+"_1_all.deb"))
		if err != nil || !bytes.Equal(got, pattern(100_000+i)) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// serverIn runs a server in the servers' namespace, as a user, until the end of the test.
func (w *world) serverIn(t *testing.T, uid uint32, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	w.in(cmd.Start)
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGINT) // postgres: at once, and cleanly
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(patience):
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			<-ended
		}
		if t.Failed() {
			t.Logf("%s: %s", name, out.String())
		}
	})
}

// await waits until something listens in the servers' namespace.
func (w *world) await(t *testing.T, port int) {
	t.Helper()
	eventually(t, func() error {
		return w.there.Do(func() error {
			c, err := net.Dial("tcp", net.JoinHostPort(server4, fmt.Sprint(port)))
			if err == nil {
				err = c.Close()
			}
			return err
		})
	})
}

// nobody is an unprivileged user: postgres does not run as root.
const nobody = 65534

// psql asks a real database: queries, COPY both ways, and a query that is cancelled, by a connection of its own.
func (w *world) psql(t *testing.T) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatalf("postgresql is not installed (make setup-test installs it): %v", err)
	}
	bin := found[len(found)-1]
	dir, err := os.MkdirTemp("", "ffpg")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chown(dir, nobody, nobody))
	initdb := exec.Command(bin+"/initdb", "-D", dir+"/data", "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	hba, err := os.OpenFile(dir+"/data/pg_hba.conf", os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = fmt.Fprintf(hba, "host all all 10.98.0.0/24 trust\n")
	must(t, err)
	must(t, hba.Close())
	w.serverIn(t, nobody, bin+"/postgres", "-D", dir+"/data", "-k", dir, "-h", server4, "-p", "5432", "-F")
	eventually(t, func() error { return w.there.Do(exec.Command(bin+"/pg_isready", "-q", "-h", server4).Run) })
	psql := func(args ...string) string {
		return w.run(t, bin+"/psql", append([]string{"-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", server4, "-U", "postgres"}, args...)...)
	}
	if got := psql("-c", "SELECT inet_client_addr()"); strings.TrimSpace(got) != inside4 {
		t.Errorf("the database is asked from %q", got)
	}
	var rows strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&rows, "%d\tline %d of a table\n", i, i)
	}
	in, out := dir+"/in", dir+"/out"
	must(t, os.WriteFile(in, []byte(rows.String()), 0o644))
	psql("-c", "CREATE TABLE t (n int, s text)", "-c", `\copy t FROM '`+in+`'`, "-c", `\copy (SELECT * FROM t ORDER BY n) TO '`+out+`'`)
	if got, err := os.ReadFile(out); err != nil || string(got) != rows.String() {
		t.Errorf("%d of %d bytes came back: %v", len(got), rows.Len(), err)
	}
	begun := time.Now()
	cancelled := exec.Command(bin+"/psql", "-X", "-h", server4, "-U", "postgres", "-c", "SELECT pg_sleep(60)")
	var said bytes.Buffer
	cancelled.Stderr = &said
	must(t, cancelled.Start())
	eventually(t, func() error {
		if n := strings.TrimSpace(psql("-c", "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'")); n != "1" {
			return fmt.Errorf("%s such queries", n)
		}
		return nil
	})
	must(t, cancelled.Process.Signal(os.Interrupt)) // psql asks for a cancel by another connection
	if err := cancelled.Wait(); err == nil || !strings.Contains(said.String(), "canceling statement") || time.Since(begun) > 40*time.Second {
		t.Errorf("after %s: %v, %s", time.Since(begun), err, said.String())
	}
}

// ssh runs a command and copies a file with the real client and server.
func (w *world) ssh(t *testing.T, dir string) {
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		t.Fatalf("openssh-server is not installed (make setup-test installs it): %v", err)
	}
	must(t, os.MkdirAll("/run/sshd", 0o755))
	home := filepath.Join(dir, "ssh")
	must(t, os.Mkdir(home, 0o700))
	for _, key := range []string{"host", "user"} {
		w.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(home, key))
	}
	public, err := os.ReadFile(home + "/user.pub")
	must(t, err)
	must(t, os.WriteFile(home+"/authorized", public, 0o600))
	config := fmt.Sprintf("Port 2222\nListenAddress %s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n", server4, home, home)
	must(t, os.WriteFile(home+"/config", []byte(config), 0o600))
	w.serverIn(t, 0, "/usr/sbin/sshd", "-D", "-e", "-f", home+"/config")
	w.await(t, 2222)
	options := []string{"-F", "none", "-i", home + "/user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + home + "/known", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"}
	got := w.run(t, "ssh", append(options, "-p", "2222", "root@"+server4, "echo $SSH_CLIENT; cat >/dev/null; exit 0")...)
	if !strings.HasPrefix(got, inside4+" ") {
		t.Errorf("the server is asked by %q", got)
	}
	must(t, os.WriteFile(home+"/there", pattern(bodySize), 0o600))
	w.run(t, "scp", append(options, "-q", "-P", "2222", home+"/there", "root@"+server4+":"+home+"/copied")...)
	w.run(t, "scp", append(options, "-q", "-P", "2222", "root@"+server4+":"+home+"/copied", home+"/back")...)
	if got, err := os.ReadFile(home + "/back"); err != nil || !bytes.Equal(got, pattern(bodySize)) {
		t.Errorf("%d bytes came back: %v", len(got), err)
	}
}

// mysql greets as that does, within a packet of its own, and waits for the client's answer.
func (w *world) mysql(t *testing.T) {
	greeting := append([]byte{0x4a, 0, 0, 0, 10}, append([]byte("8.0.36-forefend\x00"), pattern(58)...)...)
	l := w.listen(3306)
	go network.Serve(l, func(c net.Conn) {
		_, _ = c.Write(greeting)
		_, _ = io.Copy(c, c)
	})
	begun := time.Now()
	c, err := net.Dial("tcp", server4+":3306")
	must(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	got := make([]byte, len(greeting))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, greeting) {
		t.Fatalf("greeted with %q, %v", got, err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("greeted after %s", took)
	}
	body := pattern(bodySize)
	go func() { _, _ = c.Write(body) }()
	got = make([]byte, len(body))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, body) {
		t.Errorf("other bytes came back: %v", err)
	}
	if flows := w.Flows(); len(flows) == 0 || flows[len(flows)-1].Tunnel != "b" {
		t.Errorf("%+v", flows)
	}
}
