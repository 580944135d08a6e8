package memory

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/setup"
	"forefend.dev/forefend/runtime/rootfs"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// Node is where the program will run.
type Node struct {
	Cores  int   // for servers that start one worker per core; 0: 4
	Memory int64 // bytes; 0: 8 GiB
	Limit  int64 // bytes that the container may use, if it is known; runtimes size their heaps by it
}

// visible is the memory that a runtime that looks at its cgroup sees.
func (n Node) visible() float64 {
	if n.Limit > 0 && (n.Memory == 0 || n.Limit < n.Memory) {
		return float64(n.Limit)
	}
	if n.Memory > 0 {
		return float64(n.Memory)
	}
	return 8 * gib
}

func (n Node) cores() float64 {
	if n.Cores > 0 {
		return float64(n.Cores)
	}
	return 4
}

// input is what the rules of all kinds of program look at.
type input struct {
	setup.Program
	tree rootfs.Tree
	node Node
	size float64 // of the executable, bytes
}

// rule is one kind of program.
type rule struct {
	name string
	is   *regexp.Regexp // matches the base name
	of   func(input) estimate
}

// estimate is a prior being made.
type estimate struct {
	typical, high float64
	basis         string
}

var rules = []rule{
	{"jvm", regexp.MustCompile(`^(java|catalina\.sh|elasticsearch|opensearch|cassandra|kafka-server-start\.sh)$`), jvm},
	{"node", regexp.MustCompile(`^(node(js)?|npm|npx|yarn|pnpm)$`), node},
	{"python", regexp.MustCompile(`^(python[23]?(\.\d+)?|pypy3?|gunicorn3?|uwsgi|uvicorn|hypercorn|celery|flask|django-admin)$`), python},
	{"php-fpm", regexp.MustCompile(`^php-fpm[\d.]*$`), phpFPM},
	{"postgres", regexp.MustCompile(`^(postgres|postmaster|pg_ctl|pg_ctlcluster)$`), postgres},
	{"redis", regexp.MustCompile(`^(redis|valkey|keydb)-server$`), redis},
	{"mysql", regexp.MustCompile(`^(mysqld|mariadbd|mysqld_safe|mariadbd-safe)$`), mysql},
	{"memcached", regexp.MustCompile(`^memcached$`), memcached},
	{"nginx", regexp.MustCompile(`^(nginx|openresty|angie)$`), nginx},
	{"apache", regexp.MustCompile(`^(apache2|httpd|apache2ctl|apachectl|httpd-foreground|apache2-foreground)$`), apache},
	{"php", regexp.MustCompile(`^php(-cgi)?[\d.]*$`), php},
	{"ruby", regexp.MustCompile(`^(ruby[\d.]*|puma|unicorn|rails|rackup|bundle|sidekiq)$`), ruby},
	{"perl", regexp.MustCompile(`^perl[\d.]*$`), func(input) estimate { return estimate{12 * mib, 200 * mib, "an interpreter's programs vary"} }},
	{"shell", regexp.MustCompile(`^(ba|da|a|z|k)?sh$`), func(input) estimate {
		return estimate{4 * mib, 64 * mib, "a shell; what it starts may take more"}
	}},
}

// Prior estimates what the command of s will take. programs are those of the scan: an entrypoint script's command is
// unknown, but not what it may execute.
func Prior(tree rootfs.Tree, command, env []string, node Node, programs []evidence.Program) evidence.MemoryPrior {
	in := input{Program: setup.Of(command, env), tree: tree, node: node}
	programs = setup.Near(programs)
	if p, ok := in.match(in.Name, ""); ok && p.Runtime != "shell" {
		return in.limited(p)
	}
	// A script, or a program that becomes another: the first of a known kind that it may run.
	for _, r := range rules {
		for _, p := range programs {
			if p.Kind == "library" || p.Kind == "plugin" || !r.is.MatchString(path.Base(p.Path)) || r.name == "shell" || r.name == "perl" {
				continue
			}
			other := in
			if path.Base(p.Path) != in.Name {
				other.Args = nil // they are another program's
			}
			found, _ := other.match(path.Base(p.Path), ", for "+p.Path+" may be run")
			return in.limited(found)
		}
	}
	for _, p := range programs {
		if p.Kind == "go" {
			in.size = sizeOf(tree, p.Path)
			return in.limited(prior("go", golang(in)))
		}
	}
	if p, ok := in.match(in.Name, ""); ok {
		return in.limited(p)
	}
	if in.Env["GOMEMLIMIT"] != "" {
		return in.limited(prior("go", golang(in)))
	}
	return evidence.MemoryPrior{}
}

func (in input) match(name, why string) (evidence.MemoryPrior, bool) {
	for _, r := range rules {
		if r.is.MatchString(name) {
			p := prior(r.name, r.of(in))
			p.Basis += why
			return p, true
		}
	}
	return evidence.MemoryPrior{}, false
}

func prior(runtime string, e estimate) evidence.MemoryPrior {
	return evidence.MemoryPrior{Runtime: runtime, Typical: e.typical, High: max(e.high, e.typical), Basis: e.basis}
}

// limited keeps a prior within what the node has: no run of it can take more.
func (in input) limited(p evidence.MemoryPrior) evidence.MemoryPrior {
	if most := float64(in.node.Memory); most > 0 {
		p.Typical, p.High = min(p.Typical, most), min(p.High, most)
	}
	return p
}

func sizeOf(tree rootfs.Tree, name string) float64 {
	_, _, info, err := tree.Lookup(name)
	if err != nil {
		return 0
	}
	return float64(info.Size())
}

// bytes says a size in the words of a basis.
func bytes(n float64) string {
	if n >= gib {
		return fmt.Sprintf("%.3g GiB", n/gib)
	}
	return fmt.Sprintf("%.3g MiB", n/mib)
}

// directives joins the files that exist.
func (in input) directives(files ...string) setup.Directives {
	d := make(setup.Directives)
	for _, name := range files {
		d.Parse(setup.Text(in.tree, name))
	}
	return d
}

// words are the flags in an environment variable.
func (in input) words(names ...string) []string {
	var all []string
	for _, n := range names {
		all = append(all, strings.Fields(in.Env[n])...)
	}
	return all
}
