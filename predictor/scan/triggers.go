package scan

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/object"
)

// Bounds of plugin directories.
const (
	maxPluginDepth = 4
	maxPlugins     = 1500
	maxHelpers     = 48
)

// triggers looks at what was reached in a program since the last time, for other files that it makes run.
func (w *world) triggers(p *program) {
	var dynamic uint8
	for i := 0; i < len(p.objects); i++ { // grows meanwhile
		at := p.objects[i]
		for fn, texts := range at.obj.Commands {
			if at.reached[fn] {
				for _, text := range texts {
					w.constant(p, at, text)
				}
			}
		}
		here := uint8(0)
		for fn, bits := range at.obj.Dynamic {
			if at.reached[fn] {
				here |= bits
			}
		}
		if dynamic |= here; here != 0 {
			w.dynamic(p, at, here)
		}
		w.lookUps(p, at)
	}
	w.services(p)
	w.once(p, "interpreter", func() { w.interpret(p) })
	if p.main.obj.Static && len(p.main.obj.Paths) > 0 {
		w.static(p)
	}
}

func (w *world) once(p *program, what string, do func()) {
	if !p.acted[what] {
		p.acted[what] = true
		do()
	}
}

// constant follows a name that code gives to a function that executes or loads it.
func (w *world) constant(p *program, at *loaded, text string) {
	w.once(p, "constant "+text, func() {
		switch {
		case text == "" || len(text) > 4096:
		case isLibraryName(text):
			w.join(p, w.libs.find(text, at.path, at.obj, path.Dir(p.main.path), p.main.obj.Rpath), "plugin", true)
		case !strings.ContainsAny(text, " \t\n|&;<>$`"):
			w.executeNamed(text, []string{text}, "executed by "+at.path)
		default:
			w.shellText(text, nil, at.path)
		}
	})
}

func isLibraryName(text string) bool {
	return strings.Contains(path.Base(text), ".so") && !strings.ContainsAny(text, " \t\n")
}

// dynamic follows names that are not constant as far as the file's strings tell.
func (w *world) dynamic(p *program, at *loaded, bits uint8) {
	if bits&object.ExecutesCommand != 0 {
		w.once(p, "shell", func() { w.executeNamed("/bin/sh", nil, "command line of "+at.path) })
	}
	if bits&(object.ExecutesPath|object.ExecutesCommand) != 0 {
		w.once(p, "programs "+at.path, func() { w.programStrings(p, at) })
		if !p.scripts && !w.interpreted(p) && !isLibc(at.obj) {
			w.unknown(evidence.UnknownProgram, at.path, "executes programs whose names are not constant")
		}
	}
	if bits&object.LoadsLibrary != 0 {
		w.once(p, "plugins "+at.path, func() { w.pluginStrings(p, at) })
		w.once(p, "configured plugins", func() { w.configuredPlugins(p) })
	}
}

func isLibc(o *object.Object) bool {
	return len(o.Exports["execve"]) > 0 && len(o.Exports["malloc"]) > 0
}

// programStrings executes the programs that an object's strings name by path.
func (w *world) programStrings(p *program, at *loaded) {
	for _, text := range at.obj.Paths {
		if strings.HasPrefix(text, "/") && !isLibraryName(text) && !strings.ContainsAny(text, " %:") {
			if resolved, ok := w.view.program(text); ok && resolved != p.main.path {
				w.execute(text, nil, "named in "+at.path)
			}
			// Those of the entry alone: a library's directories serve others, a helper's lead ever farther away.
			if left := maxHelpers; at == p.main && p == w.programs[0] {
				w.helpers(text, at.path, &left, 0)
			}
		}
	}
}

// elf tells whether a file is an ELF file: scripts of a package are for people and for its installation.
func (w *world) elf(name string) bool {
	head, err := w.view.text(name, 4)
	return err == nil && isELF(head)
}

// helpers executes the programs in a directory that belongs to one package, as /usr/lib/postfix/sbin does.
func (w *world) helpers(dir, by string, left *int, depth int) {
	a, ok := w.view.lookup(dir)
	if !ok || !a.Mode.IsDir() || slices.Contains(general, a.Resolved) || path.Base(a.Resolved) == "bin" || depth > 3 {
		return
	}
	if !slices.ContainsFunc([]string{"/usr/lib/", "/usr/libexec/", "/usr/local/lib", "/opt/"}, func(p string) bool { return strings.HasPrefix(a.Resolved, p) }) ||
		strings.HasPrefix(a.Resolved, "/usr/lib/debug") {
		return
	}
	for _, e := range w.view.list(a.Resolved) {
		name := path.Join(a.Resolved, e.Name)
		switch {
		case *left <= 0:
			return
		case e.Type.IsDir():
			w.helpers(name, by, left, depth+1)
		case e.Type.IsRegular() && !isPlugin(e.Name):
			if _, ok := w.view.program(name); ok && w.elf(name) {
				*left--
				w.execute(name, nil, "helper of "+by)
			}
		}
	}
}

// static follows a static program, whose C library and strings are in the same file: all that can be said is what its
// strings name.
func (w *world) static(p *program) {
	w.once(p, "static", func() {
		if w.calls["execve"] || w.calls["execveat"] {
			w.programStrings(p, p.main)
			if !p.main.obj.Go && !w.interpreted(p) {
				w.unknown(evidence.UnknownProgram, p.main.path, "may execute programs whose names are not constant")
			}
		}
	})
}

// pluginStrings loads the libraries that an object's strings name, and all of the directories of plugins they name.
func (w *world) pluginStrings(p *program, at *loaded) {
	for _, text := range at.obj.Paths {
		switch {
		case isLibraryName(text) && !strings.HasPrefix(path.Base(text), ".so"):
			w.join(p, w.libs.find(text, at.path, at.obj, path.Dir(p.main.path), p.main.obj.Rpath), "plugin", true)
		case strings.HasPrefix(text, "/"):
			w.pluginDir(p, text, at.path)
		}
	}
}

// general are directories that are not for the plugins of one program.
var general = []string{
	"/", "/lib", "/lib64", "/usr", "/usr/lib", "/usr/lib64", "/usr/local", "/usr/local/lib", "/etc", "/var", "/tmp", "/proc", "/sys", "/dev", "/run", "/bin",
	"/sbin", "/usr/bin", "/usr/sbin", "/usr/share", "/home", "/root", "/usr/local/bin", "/usr/local/share", "/var/lib", "/usr/libexec", "/opt",
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib/x86_64-linux-gnu",
}

func (w *world) pluginDir(p *program, dir, by string) {
	a, ok := w.view.lookup(dir)
	if !ok || !a.Mode.IsDir() || slices.Contains(general, a.Resolved) || strings.HasPrefix(a.Resolved, "/usr/share/") ||
		strings.HasPrefix(a.Resolved, "/etc") || strings.HasSuffix(a.Resolved, "/gconv") || strings.Contains(a.Resolved, "/debug") {
		return
	}
	w.once(p, "directory "+a.Resolved, func() {
		files := w.plugins(a.Resolved, nil, 0)
		if len(files) > maxPlugins {
			w.unknown(evidence.UnknownPlugin, a.Resolved, "has too many plugins")
			files = files[:maxPlugins]
		}
		w.joinPlugins(p, files)
	})
}

// joinPlugins loads independent plugins: analysed together, each with all its exports called.
func (w *world) joinPlugins(p *program, files []string) {
	w.load(files)
	for _, f := range files {
		w.join(p, []string{f}, "plugin", true)
	}
}

// plugins lists the shared objects below a directory.
func (w *world) plugins(dir string, found []string, depth int) []string {
	if depth > maxPluginDepth || len(found) > maxPlugins {
		return found
	}
	for _, e := range w.view.list(dir) {
		name := path.Join(dir, e.Name)
		switch {
		case e.Type.IsDir():
			found = w.plugins(name, found, depth+1)
		case e.Type.IsRegular() && isPlugin(e.Name):
			found = append(found, name)
		case e.Type == fs.ModeSymlink && isPlugin(e.Name):
			if resolved, ok := w.view.file(name); ok {
				found = append(found, resolved)
			}
		}
	}
	return found
}

func isPlugin(name string) bool {
	return strings.HasSuffix(name, ".so") || strings.HasSuffix(name, ".node") || strings.Contains(name, ".so.")
}

// lookUps counts as called what an object may look up by name.
func (w *world) lookUps(p *program, at *loaded) {
	if len(at.obj.Names) == 0 || !w.imports(at, "dlsym") && !w.imports(at, "dlvsym") {
		return
	}
	for _, other := range p.objects {
		if len(other.reached) == 1 { // all of it is reached already
			continue
		}
		w.once(p, "names "+at.path+" "+other.path, func() {
			for name, fns := range other.obj.Exports {
				if _, found := slices.BinarySearch(at.obj.Names, object.Hash(name)); found {
					for _, fn := range fns {
						w.reach(other, fn)
					}
				}
			}
		})
	}
}

// imports tells whether reached code of an object uses an import.
func (w *world) imports(at *loaded, name string) bool {
	i := slices.Index(at.obj.Imports, name)
	return i >= 0 && at.imported[i]
}
