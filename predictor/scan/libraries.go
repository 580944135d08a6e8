package scan

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/scan/object"
)

// Bounds of the dynamic linker's configuration.
const (
	maxConfigDirs  = 256
	maxConfigDepth = 4
	maxCache       = 16 << 20
	maxCached      = 20_000 // libraries in the linker's cache
	maxNameSize    = 512
)

// libraries finds shared libraries as the dynamic linker does (ld.so(8)).
type libraries struct {
	view  *view
	env   []string // directories of LD_LIBRARY_PATH
	cache map[string][]string
	conf  []string // directories of ld.so.conf, for when the cache is stale
}

func newLibraries(v *view, env []string) *libraries {
	l := &libraries{view: v, cache: map[string][]string{}}
	if value := variable(env, "LD_LIBRARY_PATH"); value != "" {
		l.env = strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ';' })
	}
	if b, err := v.text("/etc/ld.so.cache", maxCache); err == nil {
		l.cache = parseLinkerCache(b)
	}
	l.conf = l.config("/etc/ld.so.conf", 0)
	for _, arch := range []string{"x86_64", "aarch64"} { // musl
		if b, err := v.text("/etc/ld-musl-"+arch+".path", maxText); err == nil {
			l.conf = append(l.conf, strings.FieldsFunc(string(b), func(r rune) bool { return r == ':' || r == '\n' })...)
		}
	}
	return l
}

// variable is the value of NAME in an environment.
func variable(env []string, name string) string {
	for _, pair := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// config reads the directories that ld.so.conf and what it includes name.
func (l *libraries) config(name string, depth int) []string {
	b, err := l.view.text(name, maxText)
	if err != nil || depth > maxConfigDepth {
		return nil
	}
	var dirs []string
	for _, line := range parseLinkerConfig(b) {
		pattern, include := strings.CutPrefix(line, "include ")
		switch {
		case len(dirs) > maxConfigDirs:
			return dirs
		case !include:
			dirs = append(dirs, line)
		default:
			if !strings.HasPrefix(pattern, "/") {
				pattern = path.Join(path.Dir(name), pattern)
			}
			dir, base := path.Split(pattern)
			for _, e := range l.view.list(dir) {
				if ok, err := path.Match(base, e.Name); ok && err == nil {
					dirs = append(dirs, l.config(path.Join(dir, e.Name), depth+1)...)
				}
			}
		}
	}
	return dirs
}

// parseLinkerConfig gives the directories of an ld.so.conf, and its include lines as "include PATTERN".
func parseLinkerConfig(b []byte) []string {
	var out []string
	for line := range bytes.Lines(b) {
		line, _, _ = bytes.Cut(line, []byte("#"))
		fields := strings.Fields(strings.ReplaceAll(string(line), ",", " "))
		switch {
		case len(fields) == 0 || fields[0] == "hwcap" || len(out) >= maxConfigDirs:
		case fields[0] == "include":
			for _, f := range fields[1:] {
				out = append(out, "include "+f)
			}
		default:
			for _, f := range fields {
				dir, _, _ := strings.Cut(f, "=") // old: a type follows
				out = append(out, dir)
			}
		}
	}
	return out
}

// parseLinkerCache reads /etc/ld.so.cache in its present format (glibc's dl-cache.h): name -> paths.
func parseLinkerCache(b []byte) map[string][]string {
	const magic, header, entry = "glibc-ld.so.cache1.1", 48, 24
	start := bytes.Index(b, []byte(magic))
	out := make(map[string][]string)
	if start < 0 || len(b)-start < header {
		return out
	}
	b = b[start:]
	le := binary.LittleEndian
	n := int(le.Uint32(b[len(magic):]))
	text := func(off uint32) string {
		if uint64(off) >= uint64(len(b)) {
			return ""
		}
		end := bytes.IndexByte(b[off:min(len(b), int(off)+maxNameSize)], 0)
		return string(b[off:][:max(0, end)])
	}
	for i := range min(n, (len(b)-header)/entry, maxCached) {
		e := b[header+i*entry:]
		name, file := text(le.Uint32(e[4:])), text(le.Uint32(e[8:]))
		if name != "" && strings.HasPrefix(file, "/") {
			out[name] = append(out[name], file)
		}
	}
	return out
}

// hardware are the directories of variants for newer processors: which of them is loaded depends on the node, so all are.
var hardware = []string{"glibc-hwcaps/x86-64-v4", "glibc-hwcaps/x86-64-v3", "glibc-hwcaps/x86-64-v2"}

func defaultDirs(arch string) []string {
	triplet := "x86_64-linux-gnu"
	if arch == "arm64" {
		triplet = "aarch64-linux-gnu"
	}
	return []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib64", "/usr/lib64", "/lib", "/usr/local/lib", "/usr/lib"}
}

// find locates the library called name for an object at where; the program that loads it is at main. There may be several
// variants. Only a library of the right architecture counts, which the reader checks.
func (l *libraries) find(name string, where string, o *object.Object, mainDir string, mainRpath []string) []string {
	if strings.Contains(name, "/") {
		if resolved, ok := l.view.file(name); ok {
			return []string{resolved}
		}
		return nil
	}
	var dirs []string
	expand := func(list []string, dir string) {
		for _, d := range list {
			if d = expandDir(d, dir, o.Arch); strings.HasPrefix(d, "/") {
				dirs = append(dirs, d)
			}
		}
	}
	if len(o.Runpath) == 0 {
		expand(o.Rpath, path.Dir(where))
		expand(mainRpath, mainDir)
	}
	dirs = append(dirs, l.env...)
	expand(o.Runpath, path.Dir(where))
	if found := l.in(dirs, name); len(found) > 0 {
		return found
	}
	if found := l.cached(name, o.Arch); len(found) > 0 {
		return found
	}
	return l.in(append(slices.Clone(l.conf), defaultDirs(o.Arch)...), name)
}

func expandDir(d, origin, arch string) string {
	lib, platform := "lib/x86_64-linux-gnu", "x86_64"
	if arch == "arm64" {
		lib, platform = "lib/aarch64-linux-gnu", "aarch64"
	}
	return strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin, "$LIB", lib, "${LIB}", lib,
		"$PLATFORM", platform, "${PLATFORM}", platform).Replace(d)
}

// in finds the first directory that has the library, with its variants.
func (l *libraries) in(dirs []string, name string) (found []string) {
	for _, dir := range dirs {
		resolved, ok := l.view.file(path.Join(dir, name))
		if !ok {
			continue
		}
		found = append(found, resolved)
		if l.view.directory(path.Join(dir, "glibc-hwcaps")) {
			for _, h := range hardware {
				if resolved, ok := l.view.file(path.Join(dir, h, name)); ok {
					found = append(found, resolved)
				}
			}
		}
		return found
	}
	return nil
}

// cached is what the linker's cache says, of any architecture: the reader skips the others.
func (l *libraries) cached(name, arch string) (found []string) {
	for _, file := range l.cache[name] {
		if resolved, ok := l.view.file(file); ok && !slices.Contains(found, resolved) {
			found = append(found, resolved)
		}
	}
	return found
}
