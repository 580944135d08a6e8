package output

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable replaces what a terminal would not show as one character: controls, escapes, invisible and combining
// characters. Line breaks and tabs become spaces.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r), unicode.Is(unicode.M, r):
			return '?'
		}
		return r
	}, s)
}

// Columns is how many columns s takes: characters of East Asian scripts and pictographs count as two.
func Columns(s string) int {
	n := 0
	for _, r := range s {
		n += columns(r)
	}
	return n
}

// wide are the blocks whose characters most terminals draw two columns wide.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{{0x1100, 0x115f, 1}, {0x2e80, 0xa4cf, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1}},
	R32: []unicode.Range32{{0x1f300, 0x1faff, 1}, {0x20000, 0x3fffd, 1}},
}

func columns(r rune) int {
	if r >= 0x1100 && unicode.Is(wide, r) {
		return 2
	}
	return 1
}

// Truncate cuts s to at most n columns and marks the cut with "…".
func Truncate(s string, n int) string {
	if Columns(s) <= n {
		return s
	}
	used := 0
	for i, r := range s {
		if used += columns(r); used > n-1 {
			return strings.TrimRight(s[:i], " ") + "…"
		}
	}
	return s
}

// Wrap breaks s between words into lines of at most n columns; a longer word is broken where it must be.
func Wrap(s string, n int) []string {
	var lines []string
	line, used := "", 0
	for _, word := range strings.Fields(Printable(s)) {
		w := Columns(word)
		if used > 0 && used+1+w <= n {
			line, used = line+" "+word, used+1+w
			continue
		}
		if used > 0 {
			lines = append(lines, line)
		}
		for w > n {
			head := cut(word, n)
			lines = append(lines, head)
			word = word[len(head):]
			w = Columns(word)
		}
		line, used = word, w
	}
	if used > 0 || len(lines) == 0 {
		lines = append(lines, line)
	}
	return lines
}

// cut returns the longest prefix of s of at most n columns, and at least one character.
func cut(s string, n int) string {
	used := 0
	for i, r := range s {
		if used += columns(r); used > n && i > 0 {
			return s[:i]
		}
	}
	return s
}
