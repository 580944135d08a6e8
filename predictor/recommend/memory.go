package recommend

import (
	"fmt"
	"path"
	"regexp"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// A predicted hard memory limit leaves the headroom above the bound that the airbag keeps (docs/decisions/0057): a run like those
// before it stays where nothing has to be raised.
const (
	leastHeadroom    = 64 << 20
	headroomShare    = 4
	coverageForLimit = 0.9
)

// Sized is what is known of whether a program sizes itself by its memory limit when it starts, as a Java virtual machine
// does: such a program is hurt by a limit, however early that is raised.
type Sized struct {
	Known   bool   // static analysis could tell
	Program string // that does; empty: none
	Why     string // it is not known
}

// selfSizing are programs and libraries that choose a heap or a cache by the memory limit they find: the JVM, V8, .NET, and
// servers that document it.
var selfSizing = regexp.MustCompile(`^(java|libjvm\.so|node(js)?|libnode\.so.*|deno|bun|dotnet|libcoreclr\.so|libhostfxr\.so|mongod|mongos|clickhouse(-server)?|sqlservr|cockroach)$`)

// SizedBy tells by a scan; nil is no scan.
func SizedBy(s *evidence.Scan) Sized {
	if s == nil || s.Entry == "" {
		return Sized{Why: "static analysis has not said what this image runs"}
	}
	switch s.Memory.Runtime {
	case "jvm", "node":
		return Sized{Known: true, Program: s.Memory.Runtime}
	}
	for _, p := range s.Programs {
		if base := path.Base(p.Path); selfSizing.MatchString(base) {
			return Sized{Known: true, Program: base}
		}
	}
	for _, u := range s.Unknown {
		if u.Kind == evidence.UnknownProgram {
			return Sized{Why: "static analysis could not follow what " + u.Where + " executes"}
		}
	}
	return Sized{Known: true}
}

// HardMemory is the hard memory limit that a prediction makes, 0 and why where it makes none.
func HardMemory(p workload.Prediction, in Input) (limit policy.Value, why string) {
	b := p.Memory
	switch {
	case !itself(p.Level) || !(b.Value > 0):
		return 0, "too little is known"
	case !in.Airbag:
		return 0, "no airbag raises it before it is reached"
	case p.Runs < in.RunsForMemory:
		return 0, fmt.Sprintf("it follows from %s, and %d make it hard", runs(p.Runs), in.RunsForMemory)
	case b.Coverage < coverageForLimit:
		return 0, fmt.Sprintf("one in %.0f runs is to exceed the bound", 1/(1-b.Coverage))
	case in.Sized.Program != "":
		return 0, in.Sized.Program + " sizes itself by its limit when it starts"
	case !in.Sized.Known:
		return 0, in.Sized.Why + ", and some runtimes size themselves by their limit"
	}
	v, ok := whole(b.Value+max(leastHeadroom, b.Value/headroomShare), 1<<20)
	if !ok || in.NodeMemory > 0 && int64(v) >= in.NodeMemory {
		return 0, "the node has no more than that"
	}
	return v, ""
}
