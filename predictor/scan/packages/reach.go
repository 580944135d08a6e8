package packages

import (
	"path"
	"regexp"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// reach knows what the command may run.
type reach struct {
	owners       owners
	programs     map[string]string // path as packages write it -> path as the scan does
	interpreters map[string]string // suffix of source files -> the interpreter's path
	scripts      []string          // directories of scripts, from which node looks for its modules
}

// interpreters are programs, and libraries that embed them, by the suffix of what they run.
var interpreters = map[string]*regexp.Regexp{
	".py":  regexp.MustCompile(`^(lib)?python[23]?(\.[0-9]+)*(\.so.*)?$`),
	".js":  regexp.MustCompile(`^(node(js)?|deno|bun|libnode\.so.*)$`),
	".pm":  regexp.MustCompile(`^((lib)?perl([0-9.]*)|libperl\.so.*)$`),
	".rb":  regexp.MustCompile(`^(ruby[0-9.]*|libruby.*\.so.*)$`),
	".php": regexp.MustCompile(`^(php(-fpm|-cgi)?[0-9.]*|libphp.*\.so)$`),
	".jar": regexp.MustCompile(`^(java|libjvm\.so)$`),
}

func newReach(o owners, programs []evidence.Program, cwd string) *reach {
	r := &reach{owners: o, programs: make(map[string]string), interpreters: make(map[string]string)}
	for _, p := range programs {
		r.programs[merged(p.Path)] = p.Path
		base := path.Base(p.Path)
		for suffix, is := range interpreters {
			if is.MatchString(base) && (r.interpreters[suffix] == "" || p.Path < r.interpreters[suffix]) {
				r.interpreters[suffix] = p.Path
			}
		}
		if p.Kind == "script" || p.Kind == "module" {
			r.scripts = append(r.scripts, path.Dir(p.Path))
		}
	}
	if len(r.scripts) == 0 {
		r.scripts = []string{path.Clean("/" + cwd)}
	}
	return r
}

// merged writes a path as it is after the merge of /bin, /sbin and /lib into /usr: packages have it either way.
func merged(p string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"} {
		if strings.HasPrefix(p, dir) {
			return "/usr" + p
		}
	}
	return p
}

// via returns the file by which code of the package may run, or "".
func (r *reach) via(p Package) (via string) {
	switch p.owner {
	case byPython:
		return r.interpreters[".py"]
	case byNode:
		return r.node(p.From)
	}
	r.owners.files(p, func(file string) bool {
		if found, ok := r.programs[merged(file)]; ok {
			via = found
			return false
		}
		if by := r.interpreters[path.Ext(file)]; by != "" {
			via = by // and go on: a program itself says more
		}
		return true
	})
	return via
}

// node finds out whether a script would find the package: node looks into node_modules beside the script and above it,
// and a package looks into its own.
func (r *reach) node(from string) string {
	by := r.interpreters[".js"]
	at := strings.Index(from, "/node_modules/")
	if by == "" || at < 0 {
		return by // Debian's /usr/share/nodejs is on every node's path there
	}
	home := from[:at]
	for _, dir := range r.scripts {
		if home == "" || dir == home || strings.HasPrefix(dir, home+"/") {
			return by
		}
	}
	return ""
}
