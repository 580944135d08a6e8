package deps

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// checkPure finds what imports alone do not show: a pure package that asks for the time or starts a goroutine.
func checkPure(g graph) ([]violation, error) {
	var found []violation
	for _, p := range g.ours() {
		if !matchesAny(pure, p.path) {
			continue
		}
		for _, name := range p.sources {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			for _, what := range impure(file) {
				found = append(found, violation{p.path, what, "a pure package gives the same answer at any time"})
			}
		}
	}
	return found, nil
}

// impure lists the uses of the clock and the go statements of a file.
func impure(file *ast.File) []string {
	timeName := importName(file, "time")
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, "starts a goroutine")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == timeName && slices.Contains(clock, n.Sel.Name) {
				found = append(found, "uses time."+n.Sel.Name)
			}
		}
		return true
	})
	if timeName == "." {
		found = append(found, "imports time without a name")
	}
	return found
}

// importName is the name by which file knows the package path, "" when it does not import it.
func importName(file *ast.File, path string) string {
	for _, i := range file.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err != nil || p != path {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return path[strings.LastIndex(path, "/")+1:]
	}
	return ""
}

// hasDoc tells whether one of the files has a package comment.
func hasDoc(files []string) (bool, error) {
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return false, err
		}
		if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
			return true, nil
		}
	}
	return false, nil
}
