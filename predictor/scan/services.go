package scan

import (
	"path"
	"slices"
	"strings"
)

// lookups are functions of the C library that load name services (libnss_*), by /etc/nsswitch.conf.
var lookups = []string{
	"getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_r", "gethostbyname2", "gethostbyname2_r", "gethostbyaddr", "gethostbyaddr_r",
	"getpwnam", "getpwnam_r", "getpwuid", "getpwuid_r", "getpwent", "getpwent_r", "setpwent", "getgrnam", "getgrnam_r", "getgrgid", "getgrgid_r", "getgrent", "setgrent",
	"getgrouplist", "initgroups", "getspnam", "getspnam_r", "getservbyname", "getservbyname_r", "getservbyport", "getservbyport_r",
	"getprotobyname", "getprotobyname_r", "getnetbyname", "getnetgrent", "innetgr", "getrpcbyname", "getaliasbyname", "wordexp", "glob", "getaddrinfo_a",
}

// unwinders are functions that load libgcc_s.
var unwinders = []string{"pthread_exit", "pthread_cancel", "backtrace", "thrd_exit"}

// services loads what the C library itself loads.
func (w *world) services(p *program) {
	wants := func(names []string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return p.wanted[n] })
	}
	if wants(lookups) {
		w.once(p, "name services", func() {
			for _, service := range w.nameServices() {
				w.join(p, w.libs.find("libnss_"+service+".so.2", p.main.path, p.main.obj, path.Dir(p.main.path), nil), "plugin", true)
			}
		})
	}
	if wants(unwinders) {
		w.once(p, "unwinder", func() {
			w.join(p, w.libs.find("libgcc_s.so.1", p.main.path, p.main.obj, path.Dir(p.main.path), nil), "plugin", true)
		})
	}
	if wants([]string{"system", "popen", "wordexp", "execvp", "execlp", "execvpe", "posix_spawnp"}) {
		w.once(p, "shell", func() { w.executeNamed("/bin/sh", nil, "the C library, for "+p.main.path) })
	}
}

// nameServices lists the services of /etc/nsswitch.conf, and those that apply without it.
func (w *world) nameServices() []string {
	services := []string{"files", "dns", "compat"}
	b, err := w.view.text("/etc/nsswitch.conf", maxText)
	if err != nil {
		return services
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		_, list, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		for _, f := range strings.Fields(list) {
			if !strings.ContainsAny(f, "[]=/") && !slices.Contains(services, f) && len(services) < 64 {
				services = append(services, f)
			}
		}
	}
	return services
}

// configuredPlugins loads what arguments and configuration files of the program name as plugins.
func (w *world) configuredPlugins(p *program) {
	base := path.Base(p.main.path)
	var texts [][]byte
	budget := int64(16 << 20)
	read := func(name string) {
		if resolved, ok := w.view.file(name); ok && budget > 0 {
			if b, err := w.view.text(resolved, min(budget, maxText)); err == nil {
				budget -= int64(len(b))
				texts = append(texts, b)
			}
		}
	}
	for _, arg := range p.args {
		if strings.HasPrefix(arg, "/") {
			read(arg)
		}
		texts = append(texts, []byte(arg))
	}
	for _, dir := range []string{"/etc/" + base, "/etc/" + strings.TrimSuffix(base, "d"), "/usr/local/etc/" + base} {
		w.configFiles(dir, read, 0)
	}
	if files := w.libraryTokens(texts, base); len(files) > 0 {
		w.joinPlugins(p, files)
	}
	for _, dir := range []string{"/usr/lib/" + base, "/usr/lib/x86_64-linux-gnu/" + base, "/usr/lib/aarch64-linux-gnu/" + base, "/usr/local/lib/" + base} {
		w.pluginDir(p, dir, p.main.path)
	}
}

func (w *world) configFiles(dir string, read func(string), depth int) {
	if depth > 3 {
		return
	}
	for i, e := range w.view.list(dir) {
		switch name := path.Join(dir, e.Name); {
		case i > 500:
			return
		case e.Type.IsDir():
			w.configFiles(name, read, depth+1)
		default:
			read(name)
		}
	}
}

// libraryTokens finds the files that words ending in .so name.
func (w *world) libraryTokens(texts [][]byte, base string) (files []string) {
	dirs := []string{"", "/usr/lib/" + base + "/", "/usr/lib/" + base + "/modules/", "/usr/share/" + base + "/", "/etc/" + base + "/"}
	for _, text := range texts {
		for word := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return strings.ContainsRune(" \t\r\n;\"'=,()", r) }) {
			if !strings.HasSuffix(word, ".so") || len(files) > maxPlugins {
				continue
			}
			for _, dir := range dirs {
				if dir == "" && !strings.HasPrefix(word, "/") {
					continue
				}
				if resolved, ok := w.view.file(dir + word); ok && !slices.Contains(files, resolved) {
					files = append(files, resolved)
				}
			}
		}
	}
	return files
}
