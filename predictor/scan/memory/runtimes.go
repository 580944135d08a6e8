package memory

import (
	"fmt"
	"strings"

	"forefend.dev/forefend/predictor/scan/setup"
)

// jvm: the heap's bound by flag, or by the JVM's own rule, a quarter of the memory it sees (JDK 10 and later look at the
// cgroup). Beside the heap are classes, code, threads and the collector's tables.
func jvm(in input) estimate {
	words := append(in.words("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_OPTS", "CATALINA_OPTS", "ES_JAVA_OPTS"),
		in.Args...)
	heap, basis := in.node.visible()/4, "heap of a quarter of "+bytes(in.node.visible())
	first, meta, direct := 0.0, 0.0, 0.0
	touch := false
	for _, w := range words {
		switch {
		case w == "-jar" || strings.HasSuffix(w, ".jar"):
		case strings.HasPrefix(w, "-Xmx"):
			if n, ok := setup.Size(w[4:], 1); ok {
				heap, basis = n, w
			}
		case strings.HasPrefix(w, "-XX:MaxHeapSize="):
			if n, ok := setup.Size(w[len("-XX:MaxHeapSize="):], 1); ok {
				heap, basis = n, w
			}
		case strings.HasPrefix(w, "-XX:MaxRAMPercentage="):
			if share := setup.Count(w[len("-XX:MaxRAMPercentage="):], 25); share > 0 && share <= 100 {
				heap, basis = in.node.visible()*share/100, w+" of "+bytes(in.node.visible())
			}
		case strings.HasPrefix(w, "-Xms"):
			first, _ = setup.Size(w[4:], 1)
		case strings.HasPrefix(w, "-XX:MaxMetaspaceSize="):
			meta, _ = setup.Size(w[len("-XX:MaxMetaspaceSize="):], 1)
		case strings.HasPrefix(w, "-XX:MaxDirectMemorySize="):
			direct, _ = setup.Size(w[len("-XX:MaxDirectMemorySize="):], 1)
		case w == "-XX:+AlwaysPreTouch":
			touch = true
		}
	}
	if meta == 0 {
		meta = 256 * mib
	}
	if direct == 0 {
		direct = heap / 4
	}
	e := estimate{typical: 45*mib + filled(heap), high: heap*1.05 + meta + direct + 150*mib, basis: basis}
	if touch {
		e.typical = max(e.typical, first+80*mib)
	}
	return e
}

// filled is how much of a heap a typical program comes to use: small heaps are made to measure and fill up with garbage,
// of large ones most stays empty, and few programs fill what the default gives them.
func filled(heap float64) float64 {
	return 0.8*min(heap, 256*mib) + 0.3*min(max(heap-256*mib, 0), 1792*mib)
}

// node: V8 bounds its old generation by flag, else by half of the memory it sees, 2 GiB at most (4 GiB from 16 GiB on).
func node(in input) estimate {
	heap, basis := min(in.node.visible()/2, 2*gib), "V8's default heap"
	if in.node.visible() >= 16*gib {
		heap = 4 * gib
	}
	for _, w := range append(in.words("NODE_OPTIONS"), in.Args...) {
		for _, name := range []string{"--max-old-space-size=", "--max_old_space_size="} {
			if v, ok := strings.CutPrefix(w, name); ok {
				if n, ok := setup.Size(v, mib); ok {
					heap, basis = n, w
				}
			}
		}
	}
	return estimate{typical: 35*mib + min(0.02*heap, 40*mib), high: 1.05*heap + 150*mib, basis: basis}
}

// golang: the collector works towards GOMEMLIMIT; without it a program takes about twice its live heap, which is unknown,
// and its own pages.
func golang(in input) estimate {
	if n, ok := setup.Size(in.Env["GOMEMLIMIT"], 1); ok {
		return estimate{typical: min(15*mib+0.4*in.size, n), high: 1.1*n + in.size, basis: "GOMEMLIMIT=" + in.Env["GOMEMLIMIT"]}
	}
	return estimate{typical: 15*mib + 0.4*in.size, high: 1*gib + in.size, basis: "Go program of " + bytes(in.size)}
}

// python: one interpreter, or a server's workers, each with the application in it.
func python(in input) estimate {
	workers, basis := 0.0, ""
	switch {
	case strings.HasPrefix(in.Name, "gunicorn"), in.Name == "uvicorn", in.Name == "hypercorn":
		w, ok := in.Flag("-w", "--workers")
		if !ok {
			w = in.Env["WEB_CONCURRENCY"]
		}
		workers, basis = setup.Count(w, 1), "workers of "+in.Name
	case in.Name == "uwsgi":
		w, _ := in.Flag("-p", "--processes", "--workers")
		workers, basis = setup.Count(w, 1), "processes of uwsgi"
	case in.Name == "celery":
		w, _ := in.Flag("-c", "--concurrency")
		workers, basis = setup.Count(w, in.node.cores()), "processes of celery"
	}
	if workers > 0 {
		return estimate{typical: 15*mib + workers*15*mib, high: 60*mib + workers*400*mib, basis: fmt.Sprintf("%.0f %s", workers, basis)}
	}
	return estimate{typical: 12 * mib, high: 1 * gib, basis: "an interpreter's programs vary"}
}

// phpFPM: children, each up to memory_limit, and the shared cache of compiled code.
func phpFPM(in input) estimate {
	var pools []string
	for _, dir := range []string{"/etc/php*/*/fpm/pool.d", "/usr/local/etc/php-fpm.d", "/etc/php-fpm.d", "/etc/php*/php-fpm.d"} {
		for _, d := range setup.Match(in.tree, dir) {
			pools = append(pools, setup.Files(in.tree, d, ".conf")...)
		}
	}
	d := in.directives(pools...)
	children := 0.0
	for _, v := range d["pm.max_children"] {
		children += setup.Count(v, 0)
	}
	if children == 0 {
		children = 5
	}
	limit := phpLimit(in, d)
	return estimate{
		typical: 8*mib + min(children, 3)*4*mib, high: children*limit + 160*mib,
		basis: fmt.Sprintf("pm.max_children %.0f × memory_limit %s", children, bytes(limit)),
	}
}

func phpLimit(in input, d setup.Directives) float64 {
	for name := range d {
		if strings.Contains(name, "[memory_limit]") {
			v, _ := d.Last(name)
			if n, ok := setup.Size(v, 1); ok {
				return n
			}
		}
	}
	var files []string
	for _, f := range []string{"/etc/php*/*/fpm/php.ini", "/usr/local/etc/php/php.ini", "/etc/php.ini", "/etc/php*/php.ini"} {
		files = append(files, setup.Match(in.tree, f)...)
	}
	v, _ := in.directives(files...).Last("memory_limit")
	if n, ok := setup.Size(v, 1); ok {
		return n
	}
	if v == "-1" {
		return in.node.visible() / 4
	}
	return 128 * mib // PHP's default
}

func php(in input) estimate {
	return estimate{typical: 25 * mib, high: phpLimit(in, nil) + 64*mib, basis: "PHP's memory_limit"}
}

func ruby(in input) estimate {
	workers := setup.Count(in.Env["WEB_CONCURRENCY"], 1)
	if w, ok := in.Flag("-w", "--workers"); ok {
		workers = setup.Count(w, 1)
	}
	workers = max(workers, 1)
	return estimate{typical: 30*mib + workers*50*mib, high: 200*mib + workers*600*mib, basis: fmt.Sprintf("%.0f Ruby workers", workers)}
}
