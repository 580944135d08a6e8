package harness

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// owner says which things on the machine belong to one environment.
type owner struct {
	dir       string
	namespace string   // "" when it is not the environment's own
	spaces    []string // namespaces its containers were in
	ids       []string // containers it had
	before    baseline
}

// criNamespace is where containerd's CRI plugin keeps its containers.
const criNamespace = "k8s.io"

func (e *Env) owner() owner {
	o := owner{dir: e.Dir, spaces: []string{e.Namespace, criNamespace}, ids: e.ids.list(), before: e.before}
	if e.Namespace == filepath.Base(e.Dir) {
		o.namespace = e.Namespace
	}
	return o
}

// otherNamespace matches the namespace of any environment.
var otherNamespace = regexp.MustCompile(`/` + dirPrefix + `[0-9]{5,}([/:]|$)`)

// ownsCgroup tells whether a cgroup belongs to this environment: it lies under one named after our directory; or it is new, bears the
// id of a container of ours, and lies under nobody else's namespace. An agent's is named namespace:container.
func (o owner) ownsCgroup(path string) bool {
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == ':' })
	if slices.Contains(parts, filepath.Base(o.dir)) { // our own namespace, or the cgroup parent of pods of ours
		return true
	}
	if otherNamespace.MatchString(path) || o.before.cgroups[path] {
		return false
	}
	return slices.ContainsFunc(parts, func(s string) bool { return slices.Contains(o.ids, s) })
}
