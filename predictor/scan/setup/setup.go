// Package setup reads what a command line, environment and the configuration files in an image say about a program: which
// program it is, behind the shells and init wrappers that images begin with, its flags, and its directives.
//
// It knows no program's settings; predictor/scan/memory and predictor/scan/needs do. Everything is bounded and nothing is
// evaluated: a variable in a command line, a macro in a file, stay what they are written as.
package setup

import (
	"io"
	"path"
	"slices"
	"strings"

	"forefend.dev/forefend/runtime/rootfs"
)

// maxText bounds a configuration file; the rest is not read.
const maxText = 1 << 20

// Program is what a command runs in the end.
type Program struct {
	Name string   // base name of the executable: nginx, postgres, java
	Args []string // its arguments
	Env  map[string]string
	// Other are further programs of a shell's script: all that stand first in a command of it.
	Other []string
}

// wrappers run what follows them; the value lists their options that take a value.
var wrappers = map[string][]string{
	"env": {"-u", "-C", "-S"}, "exec": {"-a"}, "nice": {"-n"}, "ionice": {"-c", "-n"}, "nohup": nil, "setsid": nil, "stdbuf": {"-i", "-o", "-e"},
	"timeout": {"-s", "-k"}, "tini": {"-p", "-e"}, "dumb-init": {"-r", "--rewrite"}, "catatonit": nil, "su-exec": nil, "gosu": nil,
	"setpriv": {"--reuid", "--regid"}, "chrt": nil, "taskset": nil, "numactl": nil, "time": nil, "command": nil, "docker-init": nil,
	"sudo": {"-u", "-g"}, "runuser": {"-u", "-g"}, "chroot": nil, "catchsegv": nil, "unbuffer": nil, "s6-setuidgid": nil,
}

// positional are wrappers' arguments before the command.
var positional = map[string]int{"su-exec": 1, "gosu": 1, "timeout": 1, "chrt": 1, "taskset": 1, "chroot": 1, "s6-setuidgid": 1}

// shells take a script after -c.
var shells = []string{"sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"}

// Of finds the program of a command. An entrypoint script that is handed the command (docker-entrypoint.sh nginx -g …)
// is passed over, as such scripts end by executing it.
func Of(command, env []string) Program {
	p := Program{Env: make(map[string]string)}
	for _, pair := range env {
		if name, value, ok := strings.Cut(pair, "="); ok {
			p.Env[name] = value
		}
	}
	args := slices.Clone(command)
	for range 10 { // wrappers in wrappers
		args = p.assignments(args)
		if len(args) == 0 {
			return p
		}
		name := path.Base(args[0])
		if options, ok := wrappers[name]; ok {
			args = p.unwrap(name, options, args[1:])
			continue
		}
		if slices.Contains(shells, name) {
			script, ok := scriptOf(args[1:])
			if !ok {
				break
			}
			commands := Commands(script)
			if len(commands) == 0 {
				break
			}
			for _, c := range commands {
				p.Other = append(p.Other, path.Base(c[0]))
			}
			args = commands[len(commands)-1] // what a script ends with is what stays
			continue
		}
		if strings.Contains(name, "entrypoint") && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
			args = args[1:]
			continue
		}
		break
	}
	p.Name, p.Args = path.Base(args[0]), args[1:]
	return p
}

// assignments takes leading NAME=value words away.
func (p *Program) assignments(args []string) []string {
	for len(args) > 0 {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok || name == "" || strings.ContainsAny(name, "/-. ") {
			return args
		}
		p.Env[name] = value
		args = args[1:]
	}
	return args
}

// unwrap removes a wrapper's own arguments.
func (p *Program) unwrap(name string, options, args []string) []string {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if args[0] == "--" {
			args = args[1:]
			break
		}
		skip := 1
		if slices.Contains(options, args[0]) {
			skip = 2
		}
		args = args[min(skip, len(args)):]
	}
	args = p.assignments(args)
	args = args[min(positional[name], len(args)):]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	return args
}

func scriptOf(args []string) (string, bool) {
	for i, a := range args {
		if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && strings.HasSuffix(a, "c") && i+1 < len(args) {
			return args[i+1], true
		}
		if !strings.HasPrefix(a, "-") && a != "sh" && a != "ash" {
			return "", false
		}
	}
	return "", false
}

// Commands splits a short script into its simple commands, each into words, quotes removed. It is no shell: what it
// cannot know, it leaves as written.
func Commands(script string) [][]string {
	var all [][]string
	var words []string
	var word strings.Builder
	has := false
	end := func() {
		if has {
			words = append(words, word.String())
		}
		word.Reset()
		has = false
	}
	stop := func() {
		end()
		for len(words) > 0 && slices.Contains(keywords, words[0]) {
			words = words[1:]
		}
		if len(words) > 0 {
			all = append(all, words)
		}
		words = nil
	}
	quote := byte(0)
	for i := 0; i < len(script) && len(all) < 1000; i++ {
		c := script[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			} else if c == '\\' && quote == '"' && i+1 < len(script) {
				i++
				word.WriteByte(script[i])
			} else {
				word.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, has = c, true
		case c == '\\' && i+1 < len(script):
			i++
			if script[i] != '\n' {
				word.WriteByte(script[i])
				has = true
			}
		case c == '#' && !has:
			for i < len(script) && script[i] != '\n' {
				i++
			}
			stop()
		case c == ' ' || c == '\t':
			end()
		case strings.IndexByte(";\n&|(){}", c) >= 0 && !(c == '{' && has) && !(c == '}' && strings.Contains(word.String(), "${")):
			stop()
		default:
			word.WriteByte(c)
			has = true
		}
	}
	stop()
	return all
}

var keywords = []string{"if", "then", "else", "elif", "do", "while", "until", "!", "fi", "done", "{", "}"}

// Flag returns the value of the first of the given flags: "-p" as "-p 80", "-p80" or "-p=80", "--port" as "--port 80" or
// "--port=80". A flag of one dash and several letters is taken as a long one.
func (p Program) Flag(names ...string) (string, bool) {
	for i, a := range p.Args {
		for _, name := range names {
			if a == name && i+1 < len(p.Args) {
				return p.Args[i+1], true
			}
			rest, ok := strings.CutPrefix(a, name)
			if !ok || rest == "" {
				continue
			}
			if rest[0] == '=' {
				return rest[1:], true
			}
			if len(name) == 2 && name[0] == '-' && name[1] != '-' {
				return rest, true
			}
		}
	}
	return "", false
}

// Text reads a configuration file; it is empty when there is none.
func Text(tree rootfs.Tree, name string) string {
	f, _, err := tree.OpenFile(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxText)) // half a file says half of it
	return string(b)
}

// Files lists the files of a directory whose names end in suffix, in order.
func Files(tree rootfs.Tree, dir, suffix string) []string {
	list, resolved, err := tree.List(dir)
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range list {
		if !e.Type.IsDir() && strings.HasSuffix(e.Name, suffix) && len(all) < 200 {
			all = append(all, path.Join(resolved, e.Name))
		}
	}
	return all
}

// Match lists the paths that pattern names, with * for one whole component.
func Match(tree rootfs.Tree, pattern string) []string {
	found := []string{"/"}
	for _, part := range strings.Split(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range found {
			if !strings.Contains(part, "*") {
				next = append(next, path.Join(dir, part))
				continue
			}
			list, _, err := tree.List(dir)
			if err != nil {
				continue
			}
			for _, e := range list {
				if ok, _ := path.Match(part, e.Name); ok && len(next) < 200 {
					next = append(next, path.Join(dir, e.Name))
				}
			}
		}
		found = next
	}
	return found
}

// Directives are the values of each name in a file of lines "name value", "name = value" or "name value;", in order.
// Names are in lower case with '_' for '-'. Comments begin with '#', and with ';' at the start of a line.
type Directives map[string][]string

// Parse adds the directives of a text.
func (d Directives) Parse(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if i := strings.IndexByte(line, '#'); i == 0 || i > 0 && (line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
		}
		for _, one := range strings.Split(strings.TrimLeft(line, "{} \t"), "; ") {
			one = strings.TrimRight(strings.TrimSpace(one), ";} \t")
			if one == "" || strings.HasPrefix(line, ";") || one[0] == '[' {
				continue
			}
			at := strings.IndexAny(one, "= \t")
			if at < 0 {
				at = len(one)
			}
			name := strings.ReplaceAll(strings.ToLower(one[:at]), "-", "_")
			value := strings.Trim(strings.TrimLeft(one[at:], "= \t"), `"'`)
			if len(d[name]) < 1000 {
				d[name] = append(d[name], value)
			}
		}
	}
}

// Last is the value that counts where a later line replaces an earlier one.
func (d Directives) Last(name string) (string, bool) {
	v := d[name]
	if len(v) == 0 {
		return "", false
	}
	return v[len(v)-1], true
}
