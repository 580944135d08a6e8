package memory

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

func image(t *testing.T, files map[string]string) rootfs.Tree {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return rootfs.Open([]string{root})
}

var configured = map[string]string{
	"etc/nginx/nginx.conf":                   "worker_processes auto;\nevents {\n\tworker_connections 768;\n}\n",
	"etc/postgresql/15/main/postgresql.conf": "shared_buffers = 1GB\nmax_connections = 50\n#work_mem = 4MB\n",
	"etc/mysql/mariadb.conf.d/50-server.cnf": "[mysqld]\ninnodb_buffer_pool_size = 2G\n",
	"etc/php/8.2/fpm/pool.d/www.conf":        "pm.max_children = 20\nphp_admin_value[memory_limit] = 64M\n",
	"etc/redis.conf":                         "maxmemory 100mb\n",
	"srv/app":                                strings.Repeat("x", 1<<20),
}

// What the settings say must be what the prior rests on.
func TestPrior(t *testing.T) {
	tree := image(t, configured)
	node := Node{Cores: 4, Memory: 16 << 30}
	for _, c := range []struct {
		command, env, runtime, basis string
		atLeast, atMost              float64 // of High, MiB
	}{
		{"java -Xmx512m -jar x.jar", "", "jvm", "-Xmx512m", 512, 1300},
		{"java -jar x.jar", "", "jvm", "quarter of 16 GiB", 4096, 6200},
		{"java -jar x.jar", "JAVA_TOOL_OPTIONS=-XX:MaxRAMPercentage=50", "jvm", "MaxRAMPercentage", 8192, 11500},
		{"sh -c|exec java -Xmx64m X", "", "jvm", "-Xmx64m", 64, 700},
		{"node x.js", "NODE_OPTIONS=--max-old-space-size=300", "node", "300", 300, 500},
		{"node x.js", "", "node", "default heap", 4096, 4600},
		{"/srv/app", "GOMEMLIMIT=256MiB", "go", "256MiB", 256, 300},
		{"gunicorn -w 3 app", "", "python", "3 workers", 500, 1500},
		{"php-fpm8.2 -F", "", "php-fpm", "20 × memory_limit 64 MiB", 20 * 64, 1500},
		{"postgres -D /d", "", "postgres", "shared_buffers 1 GiB, 50 connections", 1024, 1700},
		{"postgres -c shared_buffers=256MB -c max_connections=10", "", "postgres", "256 MiB, 10", 256, 450},
		{"redis-server /etc/redis.conf", "", "redis", "100 MiB", 100, 200},
		{"redis-server --maxmemory 1gb", "", "redis", "1 GiB", 1024, 1700},
		{"mariadbd", "", "mysql", "2 GiB", 2048, 3100},
		{"memcached -m 128", "", "memcached", "128 MiB", 128, 220},
		{"nginx", "", "nginx", "4 workers of 768", 20, 300},
		{"sh -c|sleep 1", "", "", "", 0, 0},
		{"sh /x.sh", "", "shell", "shell", 4, 64},
		{"/srv/unheard", "", "", "", 0, 0},
	} {
		var env []string
		if c.env != "" {
			env = []string{c.env}
		}
		first, script, isScript := strings.Cut(c.command, "|")
		args := strings.Fields(first)
		if isScript {
			args = append(args, script)
		}
		p := Prior(tree, args, env, node, nil)
		if p.Runtime != c.runtime || !strings.Contains(p.Basis, c.basis) || p.High < c.atLeast*mib || p.High > c.atMost*mib || p.Typical > p.High {
			t.Errorf("%s %s: %s, typical %.0f high %.0f MiB, %q", c.command, c.env, p.Runtime, p.Typical/mib, p.High/mib, p.Basis)
		}
	}
}

func TestWhatAScriptMayRunCounts(t *testing.T) {
	tree := image(t, configured)
	programs := []evidence.Program{{Path: "/usr/lib/libjvm.so", Kind: "library"}, {Path: "/usr/sbin/mariadbd", Kind: "elf"}}
	if p := Prior(tree, []string{"/run.sh"}, nil, Node{}, programs); p.Runtime != "mysql" {
		t.Errorf("%+v", p)
	}
	if p := Prior(tree, []string{"/srv/app"}, nil, Node{}, []evidence.Program{{Path: "/srv/app", Kind: "go"}}); p.Runtime != "go" || p.Typical < 15*mib {
		t.Errorf("%+v", p)
	}
}

func TestHeapFollowsTheLimit(t *testing.T) {
	tree := image(t, nil)
	whole := Prior(tree, []string{"java", "X"}, nil, Node{Memory: 64 << 30}, nil)
	limited := Prior(tree, []string{"java", "X"}, nil, Node{Memory: 64 << 30, Limit: 1 << 30}, nil)
	if limited.High >= whole.High/10 {
		t.Errorf("high %.0f MiB with 1 GiB, %.0f with 64", limited.High/mib, whole.High/mib)
	}
	if p := Prior(tree, []string{"java", "-Xmx100g"}, nil, Node{Memory: 8 << 30}, nil); p.High > 8<<30 {
		t.Errorf("more than the node has: %+v", p)
	}
}

// Peak working sets that were measured of Debian 12's packages on two cores under light load; docs/predictor/packages.md
// tells the load. High must hold, Typical be within a factor of three.
func TestPriorsAgainstMeasuredServers(t *testing.T) {
	tree := image(t, map[string]string{
		"etc/nginx/nginx.conf":            "worker_processes auto;\nevents { worker_connections 768; }\n",
		"etc/php/8.2/fpm/pool.d/www.conf": "pm.max_children = 5\n",
	})
	for command, measured := range map[string]float64{
		"redis-server":                  9.6,
		"redis-server --maxmemory 64mb": 66.6,
		"nginx":                         4.4,
		"memcached":                     14.4,
		"memcached -m 64":               66.6,
		"mariadbd":                      105.4,
		"php-fpm8.2 -F":                 9.6,
		"python3 -m http.server":        10.6,
		"gunicorn -w 4 app:app":         34.9,
		"node /srv/app.js":              36.2,
		"postgres -D /data":             133.5,
		"java -Xmx128m -cp /srv S":      154.1,
		"java -cp /srv S":               675.4,
	} {
		p := Prior(tree, strings.Fields(command), nil, Node{Cores: 2, Memory: 24 << 30}, nil)
		t.Logf("%-30s measured %6.1f typical %6.1f (%.2f) high %7.1f MiB", command, measured, p.Typical/mib, p.Typical/mib/measured, p.High/mib)
		if ratio := p.Typical / mib / measured; ratio < 1.0/3 || ratio > 3 || p.High < measured*mib {
			t.Errorf("%s: measured %.1f MiB, typical %.1f, high %.1f", command, measured, p.Typical/mib, p.High/mib)
		}
	}
}

func FuzzPrior(f *testing.F) {
	f.Add("java -Xmx1g", "pm.max_children = 1e300", "JAVA_OPTS=-XX:MaxRAMPercentage=1e9")
	f.Fuzz(func(t *testing.T, command, config, env string) {
		tree := image(t, map[string]string{"etc/php/8.2/fpm/pool.d/www.conf": config, "etc/nginx/nginx.conf": config})
		for _, c := range [][]string{strings.Fields(command), {"php-fpm8.2"}, {"nginx"}} {
			p := Prior(tree, c, []string{env}, Node{Cores: 2, Memory: 1 << 30}, nil)
			if !(p.Typical >= 0 && p.High <= 1<<30 && p.Typical <= p.High) {
				t.Errorf("%+v", p)
			}
		}
	})
}
