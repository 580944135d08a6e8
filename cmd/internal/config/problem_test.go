package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProblems holds a file's problems against the comments in it: the line
// of a problem ends in "# KEY: part of the message; part of the fix".
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			problems, err := Check(file)
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[int][]Problem)
			for _, p := range problems {
				got[p.Line] = append(got[p.Line], p)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(data)) {
				n++
				expectProblem(t, n, line, got[n])
				delete(got, n)
			}
			for _, p := range got {
				t.Errorf("unexpected: %v", p)
			}
		})
	}
}

func expectProblem(t *testing.T, n int, line string, got []Problem) {
	t.Helper()
	want := strings.Split(strings.TrimSpace(line), "#! ")[1:]
	if len(got) != len(want) {
		t.Errorf("line %d: %d problems, want %d: %v", n, len(got), len(want), got)
		return
	}
	for i, comment := range want {
		key, rest, _ := strings.Cut(strings.TrimSpace(comment), ": ")
		message, fix, _ := strings.Cut(rest, "; ")
		if p := got[i]; p.Key != key || !strings.Contains(p.Message, message) || !strings.Contains(p.Fix, fix) {
			t.Errorf("line %d: %v\nwant %s", n, p, comment)
		}
	}
}

func TestProblemsAreTheError(t *testing.T) {
	path := write(t, "mode = 1\n\nroot = \"x\"\n")
	_, err := Load(path)
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 2 {
		t.Fatalf("got %v", err)
	}
	want := fmt.Sprintf("%[1]s:1: mode: \"1\" is not one of enforce, adaptive, observe; write \"enforce\" or \"observe\"\n"+
		"%[1]s:3: root: \"x\" is not a directory of its own; write an absolute path such as \"/var/lib/forefend\"", path)
	if err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestSyntaxErrors(t *testing.T) {
	for content, want := range map[string]string{
		"mode = \"enforce\"\nmode = \"observe\"\n":                ":2: mode: ",
		"[defaults]\nmemory = \"1Gi\"\nmemory.soft = \"512Mi\"\n": `"memory.soft" = `,
		"\n\nroot = /var\n": ":3: ",
		"root = \"\xff\"\n": ":1: ",
		"[defaults\n":       ":2: ",
	} {
		_, err := Load(write(t, content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", content, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"memory", "memory.soft", "cpus"}
	for s, want := range map[string]string{"memmory": "memory", "memorysoft": "memory.soft", "cpu": "cpus", "entirely-else": "", strings.Repeat("m", 1000): ""} {
		if got := nearest(s, known); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", s, got, want)
		}
	}
}
