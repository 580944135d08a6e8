package setup

import (
	"fmt"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
)

func TestOf(t *testing.T) {
	for command, want := range map[string]string{
		"nginx|-g|daemon off;":                               "nginx [-g daemon off;]",
		"/usr/bin/tini|--|node|app.js":                       "node [app.js]",
		"docker-entrypoint.sh|redis-server|--port|1":         "redis-server [--port 1]",
		"/entrypoint.sh|-x":                                  "entrypoint.sh [-x]",
		"sh|-c|exec java -Xmx1g -jar /app.jar":               "java [-Xmx1g -jar /app.jar]",
		"bash|-lc|cd /srv && FOO=1 exec gunicorn -w 4 'a b'": "gunicorn [-w 4 a b]",
		"env|-u|X|GOMEMLIMIT=1GiB|/srv/app|x":                "app [x]",
		"gosu|postgres|postgres|-c|work_mem=1MB":             "postgres [-c work_mem=1MB]",
		"timeout|-k|5|60|memcached|-m|64":                    "memcached [-m 64]",
		"sh|/run.sh":                                         "sh [/run.sh]",
		"nice|-n|5|su-exec|u:g|php-fpm8.2|-F":                "php-fpm8.2 [-F]",
		"sh|-c|":                                             "sh [-c ]",
		"":                                                   " []",
		"sh|-c|sh -c \"sh -c 'sh -c true'\"":                 "true []",
		"sh|-c|# only a comment":                             "sh [-c # only a comment]",
		"sh|-c|if true; then exec nginx; fi":                 "nginx []",
	} {
		var args []string
		if command != "" {
			args = strings.Split(command, "|")
		}
		p := Of(args, nil)
		if got := fmt.Sprint(p.Name, " ", p.Args); got != want {
			t.Errorf("%s: %s, want %s", command, got, want)
		}
	}
	if p := Of([]string{"sh", "-c", "A=1 app"}, []string{"A=0", "B=2"}); p.Env["A"] != "1" || p.Env["B"] != "2" {
		t.Errorf("%v", p.Env)
	}
}

func TestFlag(t *testing.T) {
	p := Program{Args: []string{"-p80", "--port=81", "-Xmx1g", "-m", "64", "--last"}}
	for _, c := range []struct{ flag, want string }{{"-p", "80"}, {"--port", "81"}, {"-m", "64"}, {"--last", ""}, {"-q", ""}} {
		if got, _ := p.Flag(c.flag); got != c.want {
			t.Errorf("%s: %q, want %q", c.flag, got, c.want)
		}
	}
}

func TestDirectives(t *testing.T) {
	d := make(Directives)
	d.Parse("# a comment\nworker_processes auto;\nevents { worker_connections 512; }\nlisten 80; listen 443 ssl;\n" +
		"shared_buffers = '128MB' # why\n; php comment\n[mysqld]\ninnodb-buffer-pool-size=1G\nmaxmemory 10mb\n")
	for name, want := range map[string]string{
		"worker_processes": "[auto]", "shared_buffers": "[128MB]", "innodb_buffer_pool_size": "[1G]", "maxmemory": "[10mb]",
		"listen": "[80 443 ssl]", "php": "[]",
	} {
		if got := fmt.Sprint(d[name]); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for s, want := range map[string]float64{
		"512m": 512 << 20, "1g": 1 << 30, "128MB": 128 << 20, "2GiB": 2 << 30, "64k": 64 << 10, "10": 10 << 20, "1.5G": 1.5 * (1 << 30),
		"": 0, "-1": 0, "x": 0, "0": 0, "1x": 0, "999999999999999999t": 0,
	} {
		got, ok := Size(s, 1<<20)
		if !ok {
			got = 0
		}
		if got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func FuzzCommands(f *testing.F) {
	f.Add("a 'b c' && d | e; # f\nexec \"$@\"")
	f.Fuzz(func(t *testing.T, script string) {
		for _, c := range Commands(script) {
			if len(c) == 0 {
				t.Error("a command without words")
			}
		}
		Of([]string{"sh", "-c", script}, nil)
		d := make(Directives)
		d.Parse(script)
	})
}

func TestNear(t *testing.T) {
	var got []string
	for _, p := range Near([]evidence.Program{
		{Path: "/bin/tool", Kind: "elf", Via: "executed by /run.sh:12"},
		{Path: "/run.sh", Kind: "script", Via: "entrypoint"},
		{Path: "/bin/sh", Kind: "elf", Via: "interpreter of /run.sh"},
		{Path: "/lib/x.so", Kind: "library", Via: "needed by /bin/tool"},
		{Path: "/lib/helper", Kind: "elf", Via: "helper of /lib/x.so"},
		{Path: "/bin/mount", Kind: "elf", Via: "executed by /lib/helper"},
		{Path: "/bin/ps", Kind: "elf", Via: "named in /bin/tool"},
	}) {
		got = append(got, p.Path)
	}
	if want := "/bin/tool /run.sh /bin/sh"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %s", got, want)
	}
}
