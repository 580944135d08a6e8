package workload

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func redis() Facts {
	return Facts{
		Image:      Image{Repository: "docker.io/library/redis", Digest: "sha256:aa"},
		Executable: Executable{Path: "/usr/bin/redis-server", SHA256: "bb"},
		Args:       []string{"redis-server", "--save", ""},
		User:       "alice", Group: "web",
	}
}

// TestKeysGolden holds the keys still: history is found by them, so a change
// of their form forgets everything that was learned.
func TestKeysGolden(t *testing.T) {
	got, err := json.MarshalIndent(redis().Keys(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "keys.json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestKeysFromExactToGeneral(t *testing.T) {
	for name, c := range map[string]struct {
		facts Facts
		want  []Level
	}{
		"everything known": {redis(), []Level{LevelDigestCommand, LevelRepositoryCommand, LevelExecutable, LevelRepository, LevelUser, LevelGroup, LevelNode}},
		"nothing known":    {Facts{}, []Level{LevelNode}},
		"a bare rootfs":    {Facts{Executable: Executable{SHA256: "cc"}, Args: []string{"x"}}, []Level{LevelExecutable, LevelNode}},
		"no digest":        {Facts{Image: Image{Repository: "r"}, Group: "g"}, []Level{LevelRepositoryCommand, LevelRepository, LevelGroup, LevelNode}},
	} {
		keys := c.facts.Keys()
		if len(keys) != len(c.want) {
			t.Errorf("%s: %v", name, keys)
			continue
		}
		for i, k := range keys {
			if k.Level != c.want[i] {
				t.Errorf("%s: key %d is %s, want %s", name, i, k, c.want[i])
			}
			if !regexp.MustCompile(`^([0-9a-f]{32}|node)$`).MatchString(k.Value) {
				t.Errorf("%s: %s is no subject token", name, k)
			}
		}
	}
}

// TestKeysTellWorkloadsApart changes one fact at a time and looks which levels
// notice.
func TestKeysTellWorkloadsApart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		differ string // levels, one letter of its number each
	}{
		"nothing that counts": {func(f *Facts) { f.ID.Container, f.Run, f.UID, f.Image.Name = "x", "y", 7, "z" }, ""},
		"digest":              {func(f *Facts) { f.Image.Digest = "sha256:ab" }, "0"},
		"repository":          {func(f *Facts) { f.Image.Repository = "other" }, "13"},
		"one word":            {func(f *Facts) { f.Args[1] = "--load" }, "01"},
		"two words joined":    {func(f *Facts) { f.Args = []string{"redis-server --save", ""} }, "01"},
		"an empty word less":  {func(f *Facts) { f.Args = f.Args[:2] }, "01"},
		"executable":          {func(f *Facts) { f.Executable.SHA256 = "b" }, "2"},
		"user":                {func(f *Facts) { f.User = "web" }, "4"},
		"group":               {func(f *Facts) { f.Group = "alice" }, "5"},
	} {
		facts := redis()
		c.change(&facts)
		got := ""
		for i, k := range facts.Keys() {
			if k != redis().Keys()[i] {
				got += string('0' + rune(k.Level))
			}
		}
		if got != c.differ {
			t.Errorf("%s: levels %q differ, want %q", name, got, c.differ)
		}
	}
}

func TestKeyString(t *testing.T) {
	if s := (Key{LevelNode, "node"}).String(); s != "node:node" {
		t.Errorf("got %s", s)
	}
	if s := (Key{Level(99), "v"}).String(); s != "unknown:v" {
		t.Errorf("got %s", s)
	}
	seen := make(map[string]bool)
	for l := LevelDigestCommand; l <= LevelNode; l++ {
		if seen[l.String()] || l.String() == "unknown" {
			t.Errorf("level %d is called %s", l, l)
		}
		seen[l.String()] = true
	}
}

func TestName(t *testing.T) {
	for want, f := range map[string]Facts{
		"redis -- redis-server --save ": redis(),
		"quay.io/a/b":                   {Image: Image{Repository: "quay.io/a/b"}, Executable: Executable{Path: "/x"}},
		"/bin/sh -- sh -c exit":         {Executable: Executable{Path: "/bin/sh"}, Args: []string{"sh", "-c", "exit"}},
		"sh -c exit":                    {Args: []string{"sh", "-c", "exit"}},
		"unknown":                       {},
		"x -- a?b?[2J?":                 {Executable: Executable{Path: "x"}, Args: []string{"a\nb\x1b[2J\u202e"}},
		"x -- caf\u00e9 ?":              {Executable: Executable{Path: "x"}, Args: []string{"caf\u00e9", "\xff"}},
		"x -- " + strings.Repeat("a", 52) + "...":       {Executable: Executable{Path: "x"}, Args: []string{strings.Repeat("a", 1000), "z"}},
		"x -- " + strings.Repeat("a", 55):               {Executable: Executable{Path: "x"}, Args: []string{strings.Repeat("a", 55)}},
		"x -- a" + strings.Repeat("\u00e9", 25) + "...": {Executable: Executable{Path: "x"}, Args: []string{"a" + strings.Repeat("\u00e9", 50)}},
	} {
		if got := f.Name(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("docker.io/library/redis", "redis-server", "--save")
	f.Add("", "\xff\xfe", strings.Repeat("\u00e9", 100))
	f.Fuzz(func(t *testing.T, repository, a, b string) {
		name := Facts{Image: Image{Repository: repository}, Args: []string{a, b}}.Name()
		if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsAny(name, "\n\x00\x1b") {
			t.Errorf("%q", name)
		}
	})
}
