package deps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
)

// listed is what `go list -json` says about a package.
type listed struct {
	ImportPath, Name, Dir     string
	Standard                  bool
	Imports                   []string
	TestImports, XTestImports []string
	GoFiles, CgoFiles         []string
	TestGoFiles, XTestGoFiles []string
}

// load reads the module in dir and everything it depends on, and the whole standard library for its names.
func load(dir string) (graph, error) {
	cmd := exec.Command("go", "list", "-e", "-deps",
		"-json=ImportPath,Name,Dir,Standard,Imports,TestImports,XTestImports,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles",
		"./...", "std")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.String())
	}
	g := make(graph)
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			return g, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p, err := l.pkg()
		if err != nil {
			return nil, err
		}
		g[p.path] = p
	}
}

func (l listed) pkg() (pkg, error) {
	p := pkg{
		path: l.ImportPath, name: l.Name, standard: l.Standard,
		imports: l.Imports, tests: slices.Concat(l.TestImports, l.XTestImports),
	}
	if !matches("~/...", p.path) {
		return p, nil
	}
	for _, name := range slices.Concat(l.GoFiles, l.CgoFiles) {
		p.sources = append(p.sources, filepath.Join(l.Dir, name))
	}
	documented := slices.Clone(p.sources)
	for _, name := range slices.Concat(l.TestGoFiles, l.XTestGoFiles) {
		documented = append(documented, filepath.Join(l.Dir, name)) // a package may be tests alone
	}
	var err error
	p.doc, err = hasDoc(documented)
	return p, err
}
