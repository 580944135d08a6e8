package scan

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
)

// language is the language that a program interprets, by the program's name; empty: none.
func language(name string) string {
	for _, l := range []string{"python", "perl", "ruby", "node", "php", "java", "lua", "tclsh"} {
		rest, ok := strings.CutPrefix(name, l)
		if rest = strings.Trim(rest, "0123456789.-"); ok && (rest == "" || rest == "js" || rest == "fpm" || rest == "cgi") {
			return l
		}
	}
	return ""
}

func (w *world) interpreted(p *program) bool {
	name := path.Base(p.main.path)
	return language(name) != "" || isShell(name) || p.scripts
}

// extensions are the endings of files that a language's programs consist of.
var extensions = map[string][]string{
	"python": {".py"}, "perl": {".pl", ".pm", ".cgi"}, "ruby": {".rb"}, "node": {".js", ".mjs", ".cjs", ".ts"}, "php": {".php", ".inc"},
	"lua": {".lua"}, "tclsh": {".tcl"},
}

// interpret loads the native extensions of an interpreter, of which its scripts may load any.
func (w *world) interpret(p *program) {
	switch language(path.Base(p.main.path)) {
	case "python":
		version := strings.TrimPrefix(path.Base(p.main.path), "python")
		for _, prefix := range []string{"/usr", "/usr/local"} {
			for _, v := range []string{version, "3"} {
				for _, sub := range []string{"lib-dynload", "dist-packages", "site-packages"} {
					w.pluginDir(p, prefix+"/lib/python"+v+"/"+sub, p.main.path)
				}
			}
		}
	case "perl", "ruby":
		name := language(path.Base(p.main.path))
		for _, dir := range []string{"/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib/", "/usr/local/lib/", "/usr/local/lib/x86_64-linux-gnu/"} {
			for _, sub := range []string{name, name + "5", name + "-base"} {
				w.pluginDir(p, dir+sub, p.main.path)
			}
		}
		w.pluginDir(p, "/var/lib/gems", p.main.path)
	case "node":
		for _, dir := range []string{"/usr/lib/nodejs", "/usr/lib/node_modules", "/usr/local/lib/node_modules", w.cwd() + "/node_modules", "/node_modules"} {
			w.pluginDir(p, dir, p.main.path)
		}
	case "java":
		home := path.Dir(path.Dir(p.main.path))
		w.pluginDir(p, home+"/lib", p.main.path)
		for _, e := range w.view.list(home + "/lib") {
			if _, ok := w.view.program(home + "/lib/" + e.Name); ok && !isPlugin(e.Name) {
				w.execute(home+"/lib/"+e.Name, nil, "helper of "+p.main.path)
			}
		}
		w.unknown(evidence.UnknownProgram, p.main.path, "what Java code executes is not followed")
	case "lua", "tclsh":
		w.pluginDir(p, "/usr/lib/x86_64-linux-gnu/lua", p.main.path)
	}
}

// languageArguments reads the script that an interpreter is given.
func (w *world) languageArguments(p *program, args []string) {
	l := language(path.Base(p.main.path))
	if l == "java" {
		return
	}
	for i := 1; i < len(args); i++ {
		arg := args[i]
		switch {
		case (arg == "-c" && l == "python" || (arg == "-e" || arg == "-r" || arg == "--eval" || arg == "-p") && l != "python") && i+1 < len(args):
			w.source(p, l, []byte(args[i+1]), p.main.path+" "+arg)
			return
		case arg == "-m" && l == "python":
			return // a module of the standard library, or one found below
		case arg == "-W" || arg == "-X" || arg == "-I" || arg == "-r" || arg == "--require" || arg == "-d" || arg == "-f" || arg == "-y" || arg == "-c" || arg == "--fpm-config":
			i++
		case strings.HasPrefix(arg, "-"):
		default:
			w.sourceFile(p, l, arg)
			return
		}
	}
}

// maxSources bounds the files that are read beside a script.
const maxSources = 400

// sourceFile reads a script and those of its language in its directory.
func (w *world) sourceFile(p *program, l, name string) {
	if !strings.HasPrefix(name, "/") {
		name = path.Join(w.cwd(), name)
	}
	if w.view.directory(name) {
		name = path.Join(name, "__main__.py")
	}
	b, err := w.view.text(name, maxText)
	if err != nil {
		w.unknown(evidence.UnknownFile, name, "the script cannot be read")
		w.executeNamed("/bin/sh", nil, "the script "+name+" is not known")
		return
	}
	w.list(name, "script", "script of "+p.main.path)
	w.source(p, l, b, name)
	dir := path.Dir(name)
	if slices.Contains(general, dir) { // what else is there is none of the script's
		return
	}
	left := maxSources
	w.sources(p, l, dir, &left, 0)
	w.pluginDir(p, dir, name)
}

func (w *world) sources(p *program, l, dir string, left *int, depth int) {
	if depth > 4 || *left <= 0 {
		return
	}
	for _, e := range w.view.list(dir) {
		name := path.Join(dir, e.Name)
		switch {
		case e.Type.IsDir():
			w.sources(p, l, name, left, depth+1)
		case *left <= 0:
			w.unknown(evidence.UnknownFile, dir, "has too many scripts")
			return
		case e.Type.IsRegular() && hasExtension(l, e.Name):
			*left--
			if b, err := w.view.text(name, maxText); err == nil {
				w.source(p, l, b, name)
			}
		}
	}
}

func hasExtension(l, name string) bool {
	for _, ext := range extensions[l] {
		if strings.HasSuffix(name, ext) {
			return true
		}
	}
	return false
}

var (
	// executing are calls that execute a program, in any of the languages.
	executing = regexp.MustCompile(`\b(subprocess\.\w+|Popen|check_output|check_call|os\.system|os\.popen|os\.exec\w+|os\.spawn\w+|os\.posix_spawn\w*|pty\.spawn|create_subprocess_\w+|` +
		`child_process|exec|execSync|execFile|execFileSync|spawn|spawnSync|fork|system|popen|popen3|capture3|shell_exec|passthru|proc_open|pcntl_exec|` +
		`io\.popen|os\.execute|qx)\s*[\(\[ ]|` + "`[^`\n]{1,200}`" + `|%x[\[\({]`)
	// constantCall is such a call with a constant behind it.
	constantCall = regexp.MustCompile(`^[\s\(\[]*(args\s*=\s*)?[\(\[]*\s*["'\x60]`)
	literals     = regexp.MustCompile(`"([^"\\\n]{1,300})"|'([^'\\\n]{1,300})'|` + "`([^`\\\\\n]{1,300})`")
	nativeCalls  = regexp.MustCompile(`\b(import ctypes|from ctypes|import cffi|from cffi|ffi-napi|require 'fiddle'|FFI::|syscall\s*\()`)
)

// source follows what the text of a script executes, as far as constants tell.
func (w *world) source(p *program, l string, text []byte, where string) {
	if w.started["source "+where] {
		return
	}
	w.started["source "+where] = true
	p.scripts = true
	executes := executing.FindAllIndex(text, 500)
	for _, m := range literals.FindAllSubmatch(text, 20_000) {
		lit := string(m[1]) + string(m[2]) + string(m[3])
		switch {
		case strings.HasPrefix(lit, "/"):
			name, _, _ := strings.Cut(lit, " ")
			if _, ok := w.view.program(name); ok {
				w.execute(name, strings.Fields(lit), "named in "+where)
			}
		case len(executes) == 0:
		default:
			name, _, _ := strings.Cut(lit, " ")
			if len(name) > 1 && len(name) < 64 && !strings.Contains(name, "/") {
				w.executeNamed(name, strings.Fields(lit), "named in "+where)
			}
		}
	}
	if len(executes) > 0 {
		w.executeNamed("/bin/sh", nil, "executed by "+where)
	}
	for _, at := range executes {
		if text[at[0]] != '`' && text[at[0]] != '%' && !constantCall.Match(text[at[1]-1:min(len(text), at[1]+200)]) && !imports(l, text, at[0]) {
			w.unknown(evidence.UnknownProgram, where, "executes programs whose names are not constant")
			break
		}
	}
	if nativeCalls.Match(text) {
		w.unknown(evidence.UnknownCall, where, "calls functions of C libraries by name")
	}
}

// imports tells whether the match at pos only names the module.
func imports(_ string, text []byte, pos int) bool {
	start := strings.LastIndexByte(string(text[:pos]), '\n') + 1
	line := string(text[start:min(len(text), pos+40)])
	return strings.Contains(line, "import") || strings.Contains(line, "require")
}
