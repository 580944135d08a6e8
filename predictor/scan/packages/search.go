package packages

import (
	"context"
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/runtime/rootfs"
)

// Bounds of the search.
const (
	maxDirectories = 20_000
	searchDepth    = 12
)

// candidates are files that say what is installed.
type candidates struct {
	node     []string // package.json of packages in node_modules
	python   []string // METADATA and PKG-INFO
	programs []string // files in directories of programs
	local    []string // those of them that no package manager puts there
}

// startingPoints are where languages' packages and programs of one's own are; a search of the whole tree would spend most
// of its time in documentation, locales and headers.
var startingPoints = []string{
	"/usr/lib/node_modules", "/usr/local/lib", "/usr/lib/python3", "/usr/share/nodejs", "/usr/local/bin", "/usr/local/sbin",
	"/app", "/srv", "/opt", "/home", "/root", "/usr/src/app", "/go/bin", "/var/www", "/var/task", "/workspace", "/code",
	"/usr/bin", "/usr/sbin", "/ko-app",
}

// barren are directories that are not entered: they hold no packages, and many files.
var barren = []string{
	".git", "__pycache__", "test", "tests", "include", "doc", "docs", "man", "locale", "proc", "sys", "dev", "i18n",
	"src", "dist", "site-packages.old",
}

// search looks for packages of languages, and for programs.
func search(ctx context.Context, tree rootfs.Tree, cwd string) candidates {
	s := &searcher{ctx: ctx, tree: tree, seen: make(map[string]bool)}
	starts := slices.Clone(startingPoints)
	if path.Clean("/"+cwd) != "/" {
		starts = append(starts, path.Clean("/"+cwd))
	}
	for _, parent := range []string{"/usr/lib", "/usr/lib64", "/usr/local/lib"} {
		list, _, _ := tree.List(parent)
		for _, e := range list {
			if strings.HasPrefix(e.Name, "python") {
				starts = append(starts, path.Join(parent, e.Name, "site-packages"), path.Join(parent, e.Name, "dist-packages"))
			}
		}
	}
	starts = append(starts, "/usr/lib/python3/dist-packages")
	for _, dir := range starts {
		s.visit(dir, 0)
	}
	s.top()
	return s.found
}

type searcher struct {
	ctx   context.Context
	tree  rootfs.Tree
	seen  map[string]bool
	found candidates
}

// top looks at the files of the root itself, where images of one program have it.
func (s *searcher) top() {
	list, _, _ := s.tree.List("/")
	for _, e := range list {
		if e.Type.IsRegular() {
			s.found.programs = append(s.found.programs, "/"+e.Name)
			s.found.local = append(s.found.local, "/"+e.Name)
		}
	}
}

func (s *searcher) visit(dir string, depth int) {
	if depth > searchDepth || len(s.seen) >= maxDirectories || s.ctx.Err() != nil {
		return
	}
	list, resolved, err := s.tree.List(dir)
	if err != nil || s.seen[resolved] {
		return
	}
	s.seen[resolved] = true
	modules := path.Base(resolved) == "node_modules" || resolved == "/usr/share/nodejs" ||
		(strings.HasPrefix(path.Base(resolved), "@") && strings.Contains(resolved, "/node_modules/"))
	for _, e := range list {
		full := path.Join(resolved, e.Name)
		switch {
		case e.Type.IsDir() && strings.HasSuffix(e.Name, ".dist-info"):
			s.found.python = append(s.found.python, full+"/METADATA")
		case e.Type.IsDir() && strings.HasSuffix(e.Name, ".egg-info"):
			s.found.python = append(s.found.python, full+"/PKG-INFO")
		case e.Type.IsRegular() && strings.HasSuffix(e.Name, ".egg-info"):
			s.found.python = append(s.found.python, full)
		case e.Type.IsDir() && modules && !strings.HasPrefix(e.Name, "."):
			if !strings.HasPrefix(e.Name, "@") {
				s.found.node = append(s.found.node, full+"/package.json")
				s.visit(full+"/node_modules", depth+1)
				continue
			}
			s.visit(full, depth+1)
		case e.Type.IsDir() && !slices.Contains(barren, e.Name) && !system(resolved):
			s.visit(full, depth+1)
		case e.Type.IsRegular() && programDir(resolved):
			s.found.programs = append(s.found.programs, full)
			if !system(resolved) {
				s.found.local = append(s.found.local, full)
			}
		}
	}
}

// programDir tells whether a directory may hold Go programs. Of /app and the like only the upper two levels do.
func programDir(dir string) bool {
	base := path.Base(dir)
	return base == "bin" || base == "sbin" || strings.Count(dir, "/") <= 2 && !strings.HasPrefix(dir, "/usr/")
}

// system tells whether a directory belongs to the distribution and is looked at alone, without those below it.
func system(dir string) bool {
	return dir == "/usr/bin" || dir == "/usr/sbin" || dir == "/usr/lib/python3" || strings.HasSuffix(dir, "/dist-packages") ||
		strings.HasSuffix(dir, "/site-packages")
}
