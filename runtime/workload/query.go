package workload

import (
	"path"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// Requested is what the user asked for, before anything was predicted. Zero: not asked for.
type Requested struct {
	Memory int64   `json:"memory,omitempty"` // bytes
	CPUs   float64 `json:"cpus,omitempty"`   // cores
	PIDs   int64   `json:"pids,omitempty"`
}

// Query is what is known of a run before it starts, as far as its history may depend on it.
type Query struct {
	Keys       []Key // from exact to general, see Facts.Keys
	Repository string
	Program    string // see Facts.Program
	Requested  Requested
	Prior      evidence.MemoryPrior // what static analysis says about its memory; zero: nothing
}

// Query is what these facts ask of the history.
func (f Facts) Query() Query {
	return Query{Keys: f.Keys(), Repository: f.Image.Repository, Program: f.Program(), Requested: f.Requested, Prior: f.Prior}
}

// Query is what was known of the observed run before it started.
func (o *Observation) Query() Query {
	return Query{Keys: o.Keys, Repository: o.Repository, Program: o.Program, Requested: o.Requested, Prior: o.Prior}
}

// Describe notes what these facts say about the run that o observes.
func (f Facts) Describe(o *Observation) {
	o.Name, o.Keys, o.Image = f.Name(), f.Keys(), f.Image.Name
	o.Repository, o.Program, o.Requested, o.Prior = f.Image.Repository, f.Program(), f.Requested, f.Prior
}

// maxProgram bounds a program's name in bytes.
const maxProgram = 64

// wrappers run the program that is named after them.
var wrappers = map[string]bool{"env": true, "exec": true, "nice": true, "nohup": true, "setsid": true, "sudo": true, "tini": true, "dumb-init": true}

// Program is the name of the program a command runs, in lower case, at most 64
// bytes: what runs of the same tool with other arguments, or in another image, have in
// common. "" when the command names none.
func (f Facts) Program() string {
	for _, arg := range f.Args {
		name := strings.ToLower(path.Base(arg))
		if arg == "" || strings.HasPrefix(arg, "-") || strings.Contains(arg, "=") || wrappers[name] {
			continue
		}
		name = strings.Map(printable, name)
		for len(name) > maxProgram || name != strings.ToValidUTF8(name, "") {
			name = strings.ToValidUTF8(name[:min(len(name), maxProgram)], "")
		}
		return name
	}
	return ""
}
