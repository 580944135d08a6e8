package config

import (
	"strings"
	"testing"
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
		if got := l.find(strings.Fields(path)); got != want {
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
