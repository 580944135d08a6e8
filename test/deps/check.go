package deps

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// pkg is one package as far as the law is concerned.
type pkg struct {
	path     string
	name     string
	standard bool     // of the standard library
	imports  []string // of its own files
	tests    []string // of its test files
	doc      bool     // it has a package comment
	sources  []string // paths of its own Go files
}

// graph is all packages by path, those of other modules and of the standard library too.
type graph map[string]pkg

// ours are the packages of the module, in order.
func (g graph) ours() []pkg {
	var all []pkg
	for _, p := range g {
		if matches("~/...", p.path) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b pkg) int { return strings.Compare(a.path, b.path) })
	return all
}

// violation is one breach of the law.
type violation struct {
	path   string
	what   string
	reason string
}

func (v violation) String() string {
	return fmt.Sprintf("%s %s: %s", v.path, v.what, v.reason)
}

// checkImports finds every import that law forbids.
func checkImports(g graph, law []ban) []violation {
	var found []violation
	for _, p := range g.ours() {
		for _, b := range law {
			if matchesAny(b.packages, p.path) && !matchesAny(b.except, p.path) {
				found = append(found, b.check(g, p)...)
			}
		}
	}
	return found
}

func (b ban) forbids(path string) bool {
	return matchesAny(b.imports, path) && !matchesAny(b.allow, path)
}

func (b ban) check(g graph, p pkg) []violation {
	var found []violation
	for _, chain := range chains(g, p, b.transient) {
		if last := chain[len(chain)-1]; b.forbids(last) && last != p.path {
			found = append(found, violation{p.path, "imports " + strings.Join(chain, " -> "), b.reason})
		}
	}
	if b.testsToo {
		for _, i := range p.tests {
			if b.forbids(i) && i != p.path {
				found = append(found, violation{p.path, "imports in a test " + i, b.reason})
			}
		}
	}
	return found
}

// chains lists the shortest way from p to each package it imports, directly or, if deep, through others.
func chains(g graph, p pkg, deep bool) [][]string {
	var all [][]string
	seen := map[string]bool{p.path: true}
	queue := [][]string{nil}
	for len(queue) > 0 {
		chain := queue[0]
		queue = queue[1:]
		at := p
		if len(chain) > 0 {
			at = g[chain[len(chain)-1]]
		}
		for _, i := range at.imports {
			if seen[i] {
				continue
			}
			seen[i] = true
			next := append(slices.Clone(chain), i)
			all = append(all, next)
			if deep {
				queue = append(queue, next)
			}
		}
	}
	return all
}

// checkNames finds packages that are named after nothing, or after a package of the standard library.
func checkNames(g graph) []violation {
	standard := make(map[string]string) // name -> path
	for _, p := range g {
		if p.standard && !slices.Contains(strings.Split(p.path, "/"), "internal") && !strings.HasPrefix(p.path, "vendor/") {
			standard[path.Base(p.path)] = p.path
		}
	}
	var found []violation
	for _, p := range g.ours() {
		dir := path.Base(p.path)
		if slices.Contains(emptyNames, dir) || slices.Contains(emptyNames, p.name) {
			found = append(found, violation{p.path, "is named " + p.name, "the name does not say what is in it"})
		}
		if of, ok := standard[p.name]; ok {
			found = append(found, violation{p.path, "is named " + p.name, "it hides the standard library's " + of})
		}
		if p.path == module+"/runtime" {
			found = append(found, violation{p.path, "has Go files", "a package runtime hides the standard library's"})
		}
	}
	return found
}

// checkDocs finds packages without a package comment.
func checkDocs(g graph) []violation {
	var found []violation
	for _, p := range g.ours() {
		if !p.doc {
			found = append(found, violation{p.path, "has no package comment", "a reader asks first what it is for and what not"})
		}
	}
	return found
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// matches tells whether an import path fits a pattern of the law. Test variants that go list adds have the same path.
func matches(pattern, path string) bool {
	if rest, ok := strings.CutPrefix(pattern, "~"); ok {
		pattern = module + rest
	}
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == root || strings.HasPrefix(path, root+"/")
	}
	return path == pattern
}
