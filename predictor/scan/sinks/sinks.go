package sinks

import (
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/setup"
	"forefend.dev/forefend/runtime/rootfs"
)

// Node is what the workload will share. Zero fields are not compared with.
type Node struct {
	Cores  int
	Memory int64 // bytes
}

// Bounds of a search.
const (
	maxScripts  = 200
	maxBinaries = 200
	maxSinks    = 100
)

// Find looks at a command, in directory cwd, and at the programs that the scan has found for it.
func Find(tree rootfs.Tree, command, env []string, cwd string, programs []evidence.Program, node Node) []evidence.Sink {
	f := finder{node: node}
	p := setup.Of(command, env)
	f.command(append([]string{p.Name}, p.Args...), "command")
	for i, a := range command { // of a shell or an interpreter: -c SCRIPT, -e SCRIPT
		if i > 0 && len(command[i-1]) >= 2 && command[i-1][0] == '-' && strings.ContainsAny(command[i-1][len(command[i-1])-1:], "cer") {
			f.script(a, path.Base(command[0]), "command")
		}
	}
	f.oversized(p, "command")
	f.minerConfig(tree, p, cwd, programs)
	scripts, binaries := 0, 0
	for _, prog := range suspects(programs) {
		switch {
		case prog.Kind == "script" && scripts < maxScripts:
			scripts++
			text := setup.Text(tree, prog.Path)
			first, _, _ := strings.Cut(text, "\n")
			f.script(text, interpreter(first), prog.Path)
		case (prog.Kind == "elf" || prog.Kind == "go") && binaries < maxBinaries:
			binaries++
			f.binary(tree, prog.Path)
		}
	}
	slices.SortStableFunc(f.found, func(a, b evidence.Sink) int {
		if a.Severity != b.Severity {
			if a.Severity > b.Severity {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Where, b.Where)
	})
	return f.found[:min(len(f.found), maxSinks)]
}

// suspects are the programs that the command is meant to run, and all others that do not lie where a distribution puts its own.
func suspects(programs []evidence.Program) []evidence.Program {
	list := setup.Near(programs)
	for _, p := range programs {
		own := strings.HasPrefix(p.Path, "/usr/local/") || !slices.ContainsFunc([]string{"/usr/", "/bin/", "/sbin/", "/lib", "/etc/"},
			func(dir string) bool { return strings.HasPrefix(p.Path, dir) })
		if own && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

type finder struct {
	node   Node
	found  []evidence.Sink
	window []byte // through which binaries are searched
}

func (f *finder) add(kind, resource string, severity float64, where, why string) {
	s := evidence.Sink{Kind: kind, Resource: resource, Severity: severity, Where: where, Why: why}
	if !slices.Contains(f.found, s) {
		f.found = append(f.found, s)
	}
}

// interpreter is the base name in a script's first line, sh when there is none.
func interpreter(first string) string {
	rest, ok := strings.CutPrefix(first, "#!")
	words := strings.Fields(rest)
	if !ok || len(words) == 0 {
		return "sh"
	}
	name := path.Base(words[0])
	if name == "env" && len(words) > 1 {
		name = path.Base(words[len(words)-1])
	}
	return name
}

// cut shortens a command for a message.
func cut(words []string) string {
	s := strings.Join(words, " ")
	if len(s) > 120 {
		s = s[:117] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
