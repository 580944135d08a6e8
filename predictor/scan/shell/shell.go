// Package shell lists the commands of a shell script, as far as they are written down: it parses, and expands nothing but
// variables that the script sets to constants. Bash, POSIX sh and mksh syntax, by mvdan.cc/sh. A script is hostile: its
// size and its nesting are bounded.
package shell

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Bounds of one script.
const (
	MaxSize     = 1 << 20
	maxNesting  = 1000
	maxCommands = 20_000
	maxValues   = 16
)

// ErrTooBig says that a script exceeds the bounds.
var ErrTooBig = errors.New("the script is too big, or nested too deeply")

// Command is a simple command.
type Command struct {
	// Words are its words; Known tells which of them are constants.
	Words []string
	Known []bool
	// Arguments: the first word is the script's own arguments ("$@", $1).
	Arguments bool
	Line      int
}

// Script is what was found in a script.
type Script struct {
	Commands  []Command
	Functions map[string]bool
	Path      []string // directories that it adds to PATH
}

// Parse reads a script.
func Parse(text string) (Script, error) {
	if len(text) > MaxSize || deep(text) {
		return Script{}, ErrTooBig
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		if file, err = syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), ""); err != nil {
			return Script{}, fmt.Errorf("parse: %w", err)
		}
	}
	s := Script{Functions: map[string]bool{}}
	values := map[string][]string{}
	syntax.Walk(file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.FuncDecl:
			if n.Name != nil { // zsh has functions without
				s.Functions[n.Name.Value] = true
			}
		case *syntax.Assign:
			s.assign(n, values)
		}
		return true
	})
	syntax.Walk(file, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 && len(s.Commands) < maxCommands {
			s.Commands = append(s.Commands, commands(c, values)...)
		}
		return true
	})
	return s, nil
}

// deep tells whether brackets nest so deeply that a parser that recurses might not come back.
func deep(text string) bool {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '(', '{':
			if depth++; depth > maxNesting {
				return true
			}
		case ')', '}':
			depth = max(0, depth-1)
		}
	}
	return false
}

func (s *Script) assign(a *syntax.Assign, values map[string][]string) {
	if a.Name == nil || a.Value == nil {
		return
	}
	if a.Name.Value == "PATH" {
		for _, part := range a.Value.Parts {
			s.addPath(part)
		}
		return
	}
	if v, ok := literal(a.Value); ok && len(values[a.Name.Value]) < maxValues {
		values[a.Name.Value] = append(values[a.Name.Value], v)
	}
}

func (s *Script) addPath(part syntax.WordPart) {
	switch part := part.(type) {
	case *syntax.DblQuoted:
		for _, p := range part.Parts {
			s.addPath(p)
		}
	case *syntax.Lit:
		s.addDirs(part.Value)
	case *syntax.SglQuoted:
		s.addDirs(part.Value)
	}
}

func (s *Script) addDirs(list string) {
	for dir := range strings.SplitSeq(list, ":") {
		if strings.HasPrefix(dir, "/") && !slices.Contains(s.Path, dir) && len(s.Path) < 64 {
			s.Path = append(s.Path, dir)
		}
	}
}

// commands is the command, once for each value that its first word may have.
func commands(c *syntax.CallExpr, values map[string][]string) []Command {
	out := Command{Line: int(c.Pos().Line())}
	for _, w := range c.Args {
		text, known := literal(w)
		out.Words, out.Known = append(out.Words, text), append(out.Known, known)
	}
	if out.Known[0] {
		return []Command{out}
	}
	name := parameter(c.Args[0])
	if name == "@" || name == "*" || name == "1" {
		out.Arguments = true
	}
	if len(values[name]) == 0 {
		return []Command{out}
	}
	var all []Command
	for _, v := range values[name] {
		one := out
		fields := strings.Fields(v)
		if len(fields) == 0 {
			continue
		}
		one.Words = append(slices.Clone(fields), out.Words[1:]...)
		one.Known = append(slices.Repeat([]bool{true}, len(fields)), out.Known[1:]...)
		all = append(all, one)
	}
	return all
}

// parameter is the name of the variable that is all of a word.
func parameter(w *syntax.Word) string {
	if len(w.Parts) != 1 {
		return ""
	}
	part := w.Parts[0]
	if q, ok := part.(*syntax.DblQuoted); ok && len(q.Parts) == 1 {
		part = q.Parts[0]
	}
	if p, ok := part.(*syntax.ParamExp); ok && p.Param != nil {
		return p.Param.Value
	}
	return ""
}

// literal is the value of a word without expansions.
func literal(w *syntax.Word) (string, bool) {
	var b strings.Builder
	for _, part := range w.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			b.WriteString(strings.ReplaceAll(part.Value, `\`, ""))
		case *syntax.SglQuoted:
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			for _, p := range part.Parts {
				lit, ok := p.(*syntax.Lit)
				if !ok {
					return b.String(), false
				}
				b.WriteString(strings.NewReplacer(`\"`, `"`, `\$`, `$`, `\\`, `\`).Replace(lit.Value))
			}
		default:
			return b.String(), false
		}
	}
	return b.String(), true
}
