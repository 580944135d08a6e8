package sinks

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/scan/setup"
)

// hugeFile is what no honest start-up script preallocates.
const hugeFile = 50 << 30

var endless = []string{"/dev/zero", "/dev/urandom", "/dev/random"}

// command looks at one simple command.
func (f *finder) command(words []string, where string) {
	for len(words) > 1 && slices.Contains([]string{"exec", "nohup", "sudo", "nice", "time", "command", "busybox", "setsid"}, words[0]) {
		words = words[1:]
	}
	if len(words) == 0 {
		return
	}
	p := setup.Program{Name: path.Base(words[0]), Args: words[1:]}
	to := redirection(words)
	reads := func() bool {
		return slices.ContainsFunc(words[1:], func(w string) bool { return slices.Contains(endless, strings.TrimLeft(w, "<")) })
	}
	switch p.Name {
	case "dd":
		f.dd(p, words, where)
	case "yes":
		if to == "/dev/null" {
			f.add("endless-loop", "cpu", 0.4, where, cut(words))
		} else if to != "" {
			f.add("fill-disk", "disk", 0.8, where, cut(words)+": writes until the disk is full")
		}
	case "cat", "base64", "xxd", "hexdump":
		if reads() && to == "/dev/null" {
			f.add("endless-loop", "cpu", 0.4, where, cut(words))
		} else if reads() && to != "" {
			f.add("fill-disk", "disk", 0.8, where, cut(words)+": writes until the disk is full")
		}
	case "md5sum", "sha1sum", "sha256sum", "sha512sum", "cksum", "b2sum", "gzip", "xz", "bzip2":
		if reads() {
			f.add("endless-loop", "cpu", 0.4, where, cut(words)+": never ends")
		}
	case "tail", "sort", "tac":
		if reads() && !slices.Contains(words, "-f") {
			f.add("allocate-all", "memory", 0.9, where, cut(words)+": keeps an endless file in memory")
		}
	case "head":
		if v, ok := p.Flag("-c", "--bytes"); ok && reads() && to != "" {
			f.preallocate(v, words, where)
		}
	case "fallocate":
		if v, ok := p.Flag("-l", "--length"); ok {
			f.preallocate(v, words, where)
		}
	case "stress", "stress-ng", "memtester":
		f.stress(p, words, where)
	}
	f.minerCommand(words, where)
}

// dd without a count never ends by itself.
func (f *finder) dd(p setup.Program, words []string, where string) {
	at := make(map[string]string)
	for _, w := range p.Args {
		if name, value, ok := strings.Cut(w, "="); ok {
			at[name] = value
		}
	}
	if !slices.Contains(endless, at["if"]) || at["of"] == "" || at["of"] == "/dev/stdout" || strings.HasPrefix(at["of"], "/dev/std") {
		return
	}
	count, counted := at["count"]
	if !counted {
		if at["of"] == "/dev/null" {
			f.add("endless-loop", "cpu", 0.4, where, cut(words)+": never ends")
		} else {
			f.add("fill-disk", "disk", 0.85, where, cut(words)+": writes until the disk is full")
		}
		return
	}
	block, ok := setup.Size(at["bs"], 1)
	if !ok {
		block = 512
	}
	if n, ok := setup.Size(count, 1); ok && at["of"] != "/dev/null" && n*block >= hugeFile {
		f.add("fill-disk", "disk", 0.6, where, cut(words)+": writes "+size(n*block))
	}
}

func (f *finder) preallocate(v string, words []string, where string) {
	if n, ok := setup.Size(v, 1); ok && n >= hugeFile {
		f.add("fill-disk", "disk", 0.6, where, cut(words)+": takes "+size(n))
	}
}

// stress tools are made to exhaust.
func (f *finder) stress(p setup.Program, words []string, where string) {
	if _, ok := p.Flag("--vm", "-m", "--vm-bytes", "--bigheap", "--brk", "--stack", "--malloc"); ok || p.Name == "memtester" {
		f.add("allocate-all", "memory", 0.8, where, cut(words))
	}
	if _, ok := p.Flag("--hdd", "-d", "--iomix", "--fallocate"); ok && p.Name != "memtester" {
		f.add("fill-disk", "disk", 0.7, where, cut(words))
	}
	if _, ok := p.Flag("--cpu", "-c", "--matrix", "--all", "-a", "--fork"); ok && p.Name != "memtester" {
		f.add("endless-loop", "cpu", 0.6, where, cut(words))
	}
}

var redirect = regexp.MustCompile(`^(?:[1&])?>>?\|?(.*)$`)

// redirection is the file that standard output goes to; of a variable or a descriptor it is "".
func redirection(words []string) string {
	for i, w := range words {
		m := redirect.FindStringSubmatch(w)
		if m == nil {
			continue
		}
		to := m[1]
		if to == "" && i+1 < len(words) {
			to = words[i+1]
		}
		return to
	}
	return ""
}

func size(n float64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.3g GiB", n/(1<<30))
	}
	return fmt.Sprintf("%.3g MiB", n/(1<<20))
}

// sized are the flags that size memory: their names, and the unit of a bare number.
var sized = []struct {
	program *regexp.Regexp
	flags   []string
	unit    float64
}{
	{regexp.MustCompile(`^java$`), []string{"-Xmx", "-Xms", "-XX:MaxHeapSize", "-XX:InitialHeapSize"}, 1},
	{regexp.MustCompile(`^node(js)?$`), []string{"--max-old-space-size", "--max_old_space_size"}, 1 << 20},
	{regexp.MustCompile(`^(redis|valkey|keydb)-server$`), []string{"--maxmemory"}, 1},
	{regexp.MustCompile(`^memcached$`), []string{"-m", "--memory-limit"}, 1 << 20},
	{regexp.MustCompile(`^(mysqld|mariadbd)$`), []string{"--innodb-buffer-pool-size", "--innodb_buffer_pool_size"}, 1},
	{regexp.MustCompile(`^postgres$`), []string{"shared_buffers", "--shared_buffers", "--shared-buffers"}, 8 << 10},
}

// counted are the flags that set a number of workers.
var counted = []struct {
	program *regexp.Regexp
	flags   []string
}{
	{regexp.MustCompile(`^gunicorn3?$|^uvicorn$|^hypercorn$|^puma$`), []string{"-w", "--workers"}},
	{regexp.MustCompile(`^uwsgi$`), []string{"-p", "--processes", "--workers"}},
	{regexp.MustCompile(`^celery$`), []string{"-c", "--concurrency"}},
	{regexp.MustCompile(`^(make|ninja|gmake)$`), []string{"-j", "--jobs"}},
	{regexp.MustCompile(`^memcached$`), []string{"-t", "--threads"}},
}

// workersPerCore is far above what any of these servers' manuals advise (two to four).
const workersPerCore = 32

// oversized compares a program's flags with the node.
func (f *finder) oversized(p setup.Program, where string) {
	for _, name := range []string{"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "NODE_OPTIONS", "JAVA_OPTS"} {
		p.Args = append(p.Args[:len(p.Args):len(p.Args)], strings.Fields(p.Env[name])...)
	}
	for _, s := range sized {
		if !s.program.MatchString(p.Name) || f.node.Memory == 0 {
			continue
		}
		for _, flag := range s.flags {
			v, ok := p.Flag(flag)
			if !ok && strings.HasPrefix(flag, "-X") { // -Xmx8g
				for _, a := range p.Args {
					if rest, has := strings.CutPrefix(a, flag); has {
						v = strings.TrimPrefix(rest, "=")
					}
				}
			}
			if n, ok := setup.Size(v, s.unit); ok && n > float64(f.node.Memory) {
				f.add("oversized", "memory", 0.5, where, fmt.Sprintf("%s %s is %s; the node has %s", flag, v, size(n), size(float64(f.node.Memory))))
			}
		}
	}
	for _, c := range counted {
		if !c.program.MatchString(p.Name) || f.node.Cores == 0 {
			continue
		}
		if v, ok := p.Flag(c.flags...); ok {
			if n := setup.Count(v, 0); n > float64(workersPerCore*f.node.Cores) {
				f.add("oversized", "cpu", 0.4, where, fmt.Sprintf("%s %s on %d cores", c.flags[len(c.flags)-1], v, f.node.Cores))
			}
		}
	}
}
