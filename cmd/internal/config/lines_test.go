package config

import (
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestLines(t *testing.T) {
	const text = `# comment
a = 1
b.c = "x # no comment" # comment
"q.r" = '''
two
lines'''
[table]
list = [ 1,
  [ 2,
    3 ],
  { k = 4, "l" = "}" },
]
"A" = 5
[[many]]
name = 1979-05-27 07:32:00
[many.sub]
x = """quote " and \""" and five """""
[[many]]
y = 'raw \'
[many.sub]
z = {}
[[many.deep]]
v = 1
`
	l := scanLines(strings.ReplaceAll(text, "\n", "\r\n"))
	for path, want := range map[string]int{
		"a": 2, "b c": 3, "b": 3, "q.r": 4, "table": 7, "table list": 8, "table list 0": 8, "table list 1": 9,
		"table list 1 1": 10, "table list 2": 11, "table list 2 l": 11, "table A": 13, "many": 14, "many 0": 14, "many 0 name": 15,
		"many 0 sub": 16, "many 0 sub x": 17, "many 1": 18, "many 1 y": 19, "many 1 sub": 20, "many 1 sub z": 21,
		"many 1 deep 0": 22, "many 1 deep 0 v": 23,
		"many 1 deep 0 none": 22, "table none": 7, "none": 0,
	} {
		if got := l.find(strings.Fields(path)).line; got != want {
			t.Errorf("%s is on line %d, want %d", path, got, want)
		}
	}
}

// TestLinesEnds scans what the TOML parser would have refused.
func TestLinesEnds(t *testing.T) {
	for _, text := range []string{"=", "a", "a=", "a=[", "a=[1", "a={", "a={b", "a=\"", "a='''", `a="\`, "[", "[[", "[[]]", "[]", "'", "\"", ".", "a=]", "#", strings.Repeat("a=[", 100), "a=" + strings.Repeat("[", 1000)} {
		scanLines(text)
	}
}

// TestWithin finds the place of each word of a string in all ways to write one.
func TestWithin(t *testing.T) {
	for name, text := range map[string]string{
		"basic":           "\n\n  k = \"one \\u00e4 two \\U0001F600 \\x41 \\\"three\\t@\"",
		"literal":         "a = 1\n k = 'one @'",
		"lines":           "k = \"\"\"\none\ntwo @\"\"\"",
		"literal lines":   "k = '''\none\n  two @'''",
		"continued lines": "k = \"\"\"one \\\n   two \\  \n\n  @\"\"\"",
		"in a table":      "[t]\n[[t.a]]\nx = { k = 'x @' }",
		"ends early":      "k = 'x'",
	} {
		var values map[string]any
		if _, err := toml.Decode(text, &values); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := []string{"k"}
		if name == "in a table" {
			path = []string{"t", "a", "0", "x", "k"}
			values = values["t"].(map[string]any)["a"].([]map[string]any)[0]["x"].(map[string]any)
		}
		offset := strings.Index(values["k"].(string), "@")
		want := place{1 + strings.Count(text[:max(strings.Index(text, "@"), 0)], "\n"), 0}
		want.column = strings.Index(text, "@") - strings.LastIndex(text[:max(strings.Index(text, "@"), 0)], "\n")
		if offset < 0 {
			offset, want = 100, place{1, 8}
		}
		if got := scanLines(text).within(path, offset); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	l := scanLines("a = 1")
	if got := l.within([]string{"a"}, 3); got != (place{1, 1}) {
		t.Errorf("%+v", got)
	}
}
