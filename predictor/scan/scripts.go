package scan

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/shell"
)

// builtins are commands that shells have in themselves.
var builtins = strings.Fields(`: . [ alias bg bind break builtin caller case cd compgen complete compopt continue declare dirs disown echo enable eval
exit export false fc fg getopts hash help history jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return set
shift shopt source suspend test times trap true type typeset ulimit umask unalias unset wait`)

// shellArguments follows a shell: -c TEXT, or a script.
func (w *world) shellArguments(p *program, args []string) {
	for i := 1; i < len(args); i++ {
		arg := args[i]
		switch {
		case strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && strings.Contains(arg, "c") && i+1 < len(args):
			w.shellText(args[i+1], args[min(len(args), i+2):], p.main.path+" -c")
			return
		case arg == "-s" || arg == "-":
			w.unknown(evidence.UnknownProgram, p.main.path, "reads its commands from standard input")
			return
		case arg == "-o" || arg == "+o" || arg == "-O" || arg == "--rcfile" || arg == "--init-file":
			i++
		case strings.HasPrefix(arg, "-") || strings.HasPrefix(arg, "+"):
		default:
			w.shellFile(arg, args[i+1:])
			return
		}
	}
	if w.out.Entry == p.main.path && slices.Equal(args, w.req.Command) {
		w.unknown(evidence.UnknownProgram, p.main.path, "executes what it is told interactively")
	}
}

func (w *world) shellFile(name string, args []string) {
	if !strings.HasPrefix(name, "/") {
		if resolved, ok := w.view.file(path.Join(w.cwd(), name)); ok {
			name = resolved
		} else if resolved, ok := w.view.which(name, w.dirs); ok {
			name = resolved
		}
	}
	b, err := w.view.text(name, shell.MaxSize+1)
	if err != nil {
		w.unknown(evidence.UnknownFile, name, "the script cannot be read: "+err.Error())
		return
	}
	w.list(name, "script", "shell script")
	w.shellText(string(b), args, name)
}

// shellText follows the commands of a script whose arguments are args.
func (w *world) shellText(text string, args []string, where string) {
	key := "text " + where + "\x00" + text + "\x00" + strings.Join(args, "\x00")
	if w.started[key] || len(w.started) > maxScripts*10 {
		return
	}
	w.started[key] = true
	script, err := shell.Parse(text)
	if err != nil {
		w.unknown(evidence.UnknownProgram, where, err.Error())
		return
	}
	for _, dir := range script.Path {
		if !slices.Contains(w.dirs, dir) && len(w.dirs) < 128 {
			w.dirs = append(w.dirs, dir)
		}
	}
	before := len(w.out.Unknown)
	for _, c := range script.Commands {
		w.command(c, script, args, where)
	}
	if len(w.out.Unknown) > before {
		w.words(text, where)
	}
}

// comments are lines that a shell passes over; prose are names of programs that are words of every message.
var (
	comments = regexp.MustCompile(`(?m)^\s*#.*$`)
	prose    = strings.Fields("free more script login which groups install make find dir top time watch last host split join look write wall users who tee yes")
)

// words executes every program that a script's text names, whatever the words are for: it is what a command that is not
// constant is likely to be.
func (w *world) words(text, where string) {
	separators := " \t\n;|&<>()$`\"'=,{}[]:"
	text = comments.ReplaceAllString(text, "")
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		base := path.Base(word)
		if len(base) < 3 || slices.Contains(prose, word) || slices.Contains(builtins, base) || strings.Trim(base, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "" {
			continue
		}
		if !w.executeNamed(word, nil, "named in "+where) && strings.Contains(word, "/") {
			w.executeNamed(base, nil, "named in "+where) // below a directory that is not constant
		}
	}
}

func (w *world) command(c shell.Command, script shell.Script, args []string, where string) {
	at := fmt.Sprintf("%s:%d", where, c.Line)
	if !c.Known[0] {
		switch {
		case c.Arguments && len(args) > 0:
			w.executeNamed(args[0], args, "argument of "+where)
		case c.Arguments: // no arguments: nothing is executed
		default:
			w.unknown(evidence.UnknownProgram, at, "executes a program whose name is not constant")
		}
		return
	}
	name := c.Words[0]
	switch {
	case script.Functions[name]:
	case name == "exec" || name == "command" || name == "builtin":
		w.behind(c, script, args, where)
	case name == "eval" || name == "trap":
		if len(c.Words) > 1 && c.Known[1] {
			w.shellText(c.Words[1], args, at)
		} else if name == "eval" {
			w.unknown(evidence.UnknownProgram, at, "evaluates text that is not constant")
		}
	case name == "." || name == "source":
		if len(c.Words) > 1 && c.Known[1] {
			w.shellFile(c.Words[1], args)
		} else {
			w.unknown(evidence.UnknownProgram, at, "reads a script whose name is not constant")
		}
	case slices.Contains(builtins, name):
	default:
		w.executeNamed(name, w.knownWords(c, args), "executed by "+at)
	}
}

// behind follows the command that another one stands before.
func (w *world) behind(c shell.Command, script shell.Script, args []string, where string) {
	for i := 1; i < len(c.Words); i++ {
		if c.Known[i] && strings.HasPrefix(c.Words[i], "-") {
			continue
		}
		rest := shell.Command{Words: c.Words[i:], Known: c.Known[i:], Line: c.Line, Arguments: !c.Known[i]}
		w.command(rest, script, args, where)
		return
	}
}

// knownWords are the words of a command; for those that are not constant, the script's arguments may stand.
func (w *world) knownWords(c shell.Command, args []string) []string {
	var out []string
	for i, word := range c.Words {
		switch {
		case c.Known[i]:
			out = append(out, word)
		default:
			out = append(out, args...)
		}
	}
	return out
}
