package deps

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// TestLaw checks the repository as it stands.
func TestLaw(t *testing.T) {
	g, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range slices.Concat(checkImports(g, law), checkNames(g), checkDocs(g)) {
		t.Error(v)
	}
	impure, err := checkPure(g)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range impure {
		t.Error(v)
	}
	// A law about packages that go list did not see would hold trivially.
	for _, pattern := range slices.Concat(pure, leaves) {
		dir := strings.TrimSuffix(strings.TrimPrefix(pattern, "~/"), "/...")
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := g[module+"/"+dir]; len(files) > 0 && !ok {
			t.Errorf("%s has Go files but was not loaded", dir)
		}
	}
	if len(g.ours()) < 5 || len(g["os"].imports) == 0 {
		t.Errorf("loaded %d packages of ours, and of os the imports %v", len(g.ours()), g["os"].imports)
	}
}

// TestPureListed compares the law's pure packages with those `make cover` wants covered completely.
func TestPureListed(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var covered []string
	for line := range strings.Lines(string(makefile)) {
		if list, ok := strings.CutPrefix(line, "PURE :="); ok {
			covered = strings.Fields(list)
		}
	}
	var want []string
	for _, p := range pure {
		want = append(want, strings.TrimSuffix(strings.TrimPrefix(p, "~/"), "/..."))
	}
	slices.Sort(want)
	slices.Sort(covered)
	if !slices.Equal(want, covered) {
		t.Errorf("Makefile's PURE is %v, the law's is %v", covered, want)
	}
}
