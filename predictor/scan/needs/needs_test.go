package needs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

func image(t *testing.T, files map[string]string) (rootfs.Tree, string) {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return rootfs.Open([]string{root}), root
}

var configured = map[string]string{
	"etc/nginx/nginx.conf": "user www-data;\ninclude /etc/nginx/conf.d/*.conf;\n",
	"etc/nginx/conf.d/a.conf": "server {\n listen 8080 default_server;\n listen [::]:443 ssl;\n listen 443 quic;\n # listen 99;\n" +
		" listen unix:/run/x.sock;\n}\n",
	"etc/redis.conf":                         "port 7000\n",
	"etc/postgresql/15/main/postgresql.conf": "port = 5433 # why\n",
	"etc/php/8.2/fpm/pool.d/www.conf":        "listen = /run/php.sock\n",
	"etc/php/8.2/fpm/pool.d/two.conf":        "listen = 127.0.0.1:9000\n",
	"etc/mysql/mariadb.conf.d/50-server.cnf": "[mysqld]\nuser = mysql\n",
}

func TestPorts(t *testing.T) {
	tree, _ := image(t, configured)
	for command, want := range map[string]string{
		"nginx -g x":                        "443/tcp 443/udp 8080/tcp",
		"redis-server /etc/redis.conf":      "7000/tcp",
		"redis-server --port 1":             "1/tcp",
		"redis-server":                      "6379/tcp",
		"postgres -D /x":                    "5433/tcp",
		"postgres -c port=6000":             "6000/tcp",
		"php-fpm8.2 -F":                     "9000/tcp",
		"memcached -p 80":                   "80/tcp",
		"gunicorn -b 0.0.0.0:81 app":        "81/tcp",
		"gunicorn -b unix:/x app":           "8000/tcp",
		"python3 -m http.server 8001":       "8001/tcp",
		"python3 -m http.server":            "8000/tcp",
		"python3 app.py":                    "",
		"/srv/app --listen :8443":           "8443/tcp",
		"/srv/app --listen=localhost:99999": "",
		"/srv/app --port eighty":            "",
		"sh -c true":                        "",
		"mariadbd":                          "3306/tcp",
	} {
		if got := numbers(Ports(tree, strings.Fields(command), nil, nil)); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if got := numbers(Ports(tree, []string{"/x"}, []string{"PORT=3000"}, []string{"80", "53/udp", "x", "1/sctp"})); got != "53/udp 80/tcp 3000/tcp" {
		t.Errorf("exposed and PORT: %q", got)
	}
}

func numbers(all []evidence.Port) string {
	var words []string
	for _, p := range all {
		if p.Why == "" {
			return "no reason"
		}
		words = append(words, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
	}
	return strings.Join(words, " ")
}

func TestCapabilities(t *testing.T) {
	tree, _ := image(t, configured)
	for command, want := range map[string]string{
		"nginx":                        "CHOWN DAC_OVERRIDE KILL NET_BIND_SERVICE SETGID SETUID",
		"redis-server":                 "",
		"gosu redis redis-server":      "SETGID SETUID",
		"memcached -u nobody -p 11211": "SETGID SETUID",
		"memcached -k":                 "IPC_LOCK",
		"mariadbd":                     "DAC_OVERRIDE SETGID SETUID",
		"ping 127.0.0.1":               "NET_RAW",
		"/srv/app --port 80":           "NET_BIND_SERVICE",
		"/srv/app":                     "",
	} {
		args := strings.Fields(command)
		if got := capNames(Capabilities(tree, args, nil, nil, Ports(tree, args, nil, nil))); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	found := Capabilities(tree, []string{"/run.sh"}, nil, []evidence.Program{
		{Path: "/usr/bin/mount", Kind: "elf"}, {Path: "/usr/bin/chown", Kind: "elf"}, {Path: "/usr/lib/ping", Kind: "library"}}, nil)
	if got := capNames(found); got != "CHOWN SYS_ADMIN" {
		t.Errorf("programs: %q", got)
	}
}

func capNames(all []evidence.Capability) string {
	var words []string
	for _, c := range all {
		if c.Why == "" {
			return "no reason"
		}
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

func TestFileCapabilities(t *testing.T) {
	// VFS_CAP_REVISION_2 with cap_net_raw (13) and cap_bpf (39), effective.
	raw := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0}
	got := fileCapabilities(raw)
	slices.Sort(got)
	if !slices.Equal(got, []string{"BPF", "NET_RAW"}) {
		t.Errorf("%q", got)
	}
	if fileCapabilities(raw[:8]) != nil {
		t.Error("half an attribute has capabilities")
	}
	if os.Getuid() != 0 {
		t.Skip("setting file capabilities and setuid needs root")
	}
	tree, root := image(t, map[string]string{"bin/a": "x", "bin/b": "x"})
	if err := unix.Setxattr(filepath.Join(root, "bin/a"), "security.capability", raw, 0); err != nil {
		t.Skip("no file capabilities here: ", err)
	}
	if err := os.Chmod(filepath.Join(root, "bin/b"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	found := Capabilities(tree, []string{"/x"}, nil, []evidence.Program{{Path: "/bin/a", Kind: "elf"}, {Path: "/bin/b", Kind: "elf"}}, nil)
	if got := capNames(found); got != "BPF NET_RAW SETGID SETUID" {
		t.Errorf("%q", got)
	}
}

func FuzzPort(f *testing.F) {
	f.Add("[::]:80")
	f.Fuzz(func(t *testing.T, v string) {
		if n := port(v); n < 0 || n > 65535 {
			t.Errorf("%q: %d", v, n)
		}
	})
}
