package shell

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func commandsOf(s Script) (out []string) {
	for _, c := range s.Commands {
		var words []string
		for i, w := range c.Words {
			if !c.Known[i] {
				w += "?"
			}
			words = append(words, w)
		}
		text := strings.Join(words, " ")
		if c.Arguments {
			text += " (arguments)"
		}
		out = append(out, text)
	}
	return out
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"simple", "ls -l /tmp | sort; date &", []string{"ls -l /tmp", "sort", "date"}},
		{"substitutions", "x=$(uname -r) y=`id` z=\"$(pwd)\"", []string{"uname -r", "id", "pwd"}},
		{"process substitution", "diff <(echo a) <(echo b)", []string{"diff ? ?", "echo a", "echo b"}},
		{"compound", "for i in 1 2; do if test x; then (sleep 1); fi; done", []string{"test x", "sleep 1"}},
		{"quotes", `"/usr/bin/pri"'ntf' "a b" \c`, []string{"/usr/bin/printf a b c"}},
		{"variable with a constant", "P=/bin/a; P='/bin/b -x'; \"$P\" y", []string{"/bin/a y", "/bin/b -x y"}},
		{"arguments", `exec "$@"; $1`, []string{"exec ?", "? (arguments)"}},
		{"not constant", "$UNKNOWN x", []string{"? x"}},
		{"here document", "cat <<E\n$(hostname)\nE", []string{"cat", "hostname"}},
		{"function", "f() { grep x; }; f", []string{"grep x", "f"}},
	} {
		s, err := Parse(c.text)
		if got := commandsOf(s); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestSearchPath(t *testing.T) {
	s, err := Parse(`export PATH=/opt/a:$PATH:"/opt/b"; PATH="$PATH:/opt/c"`)
	if want := []string{"/opt/a", "/opt/b", "/opt/c"}; err != nil || !slices.Equal(s.Path, want) {
		t.Errorf("%q, %v", s.Path, err)
	}
}

func TestBounds(t *testing.T) {
	for name, text := range map[string]string{
		"size": strings.Repeat(":\n", MaxSize), "depth": strings.Repeat("$(", 2000) + strings.Repeat(")", 2000),
	} {
		if _, err := Parse(text); !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse("if ("); err == nil {
		t.Error("no error")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"#!/bin/sh\nexec \"$@\"", "a=$(b `c`)", "case x in y) z;; esac", "f(){ f; }", "<<A\nA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		for _, c := range s.Commands {
			if len(c.Words) == 0 || len(c.Words) != len(c.Known) {
				t.Errorf("%+v", c)
			}
		}
	})
}
