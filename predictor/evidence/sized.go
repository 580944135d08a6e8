package evidence

import (
	"path"
	"regexp"
	"sync"
)

// Sized is what is known of whether a program sizes itself by its memory limit when it starts, as a Java virtual machine
// does: such a program is hurt by a predicted limit, however early that is raised, and by one that is lowered later.
type Sized struct {
	Known   bool   // static analysis could tell
	Program string // that does; empty: none
	Why     string // it is not known
}

// selfSizing are programs and libraries that choose a heap or a cache by the memory limit they find: the JVM, V8, .NET, and
// servers that document it.
var selfSizing = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(java|libjvm\.so|node(js)?|libnode\.so.*|deno|bun|dotnet|libcoreclr\.so|libhostfxr\.so|mongod|mongos|clickhouse(-server)?|sqlservr|cockroach)$`)
})

// Sized tells by what was found of language runtimes and programs; a nil Scan is none.
func (s *Scan) Sized() Sized {
	if s == nil || s.Entry == "" {
		return Sized{Why: "static analysis has not said what this image runs"}
	}
	switch s.Memory.Runtime {
	case "jvm", "node":
		return Sized{Known: true, Program: s.Memory.Runtime}
	}
	for _, p := range s.Programs {
		if base := path.Base(p.Path); selfSizing().MatchString(base) {
			return Sized{Known: true, Program: base}
		}
	}
	for _, u := range s.Unknown {
		if u.Kind == UnknownProgram {
			return Sized{Why: "static analysis could not follow what " + u.Where + " executes"}
		}
	}
	return Sized{Known: true}
}
