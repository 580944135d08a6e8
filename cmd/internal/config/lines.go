package config

import (
	"strconv"
	"strings"
)

// maxDepth bounds the nesting of values that lines follows.
const maxDepth = 32

// lines knows on which line each key and each item of an array begins. The
// TOML library keeps that to itself. A path is the keys from the top; tables
// and items of an array are counted from "0".
type lines struct {
	at     map[string]int // joined path -> line
	arrays map[string]int // joined path of a [[table]] -> number of its tables
	text   string
	pos    int
	line   int
	depth  int
}

func join(path []string) string { return strings.Join(path, "\x00") }

// scanLines indexes text, which the TOML parser has accepted. On other text
// it ends early, with less of an index.
func scanLines(text string) *lines {
	l := &lines{at: make(map[string]int), arrays: make(map[string]int), text: text, line: 1}
	var table []string
	for l.space(); l.pos < len(l.text); l.space() {
		if !l.accept('[') {
			if !l.pair(table) {
				break
			}
			continue
		}
		if l.accept('[') {
			key := l.key()
			parent := l.resolve(key[:len(key)-1])
			array := append(parent, key[len(key)-1])
			n := l.arrays[join(array)]
			l.arrays[join(array)] = n + 1
			table = append(array, strconv.Itoa(n))
			l.accept(']')
		} else {
			table = l.resolve(l.key())
		}
		l.mark(table)
		l.accept(']')
	}
	return l
}

// find returns the line of path, or of the nearest part of it that has one.
func (l *lines) find(path []string) int {
	for n := len(path); n > 0; n-- {
		if line, ok := l.at[join(path[:n])]; ok {
			return line
		}
	}
	return 0
}

// resolve turns the key of a table header into a path: inside a [[table]] it
// means the last one.
func (l *lines) resolve(key []string) []string {
	var path []string
	for _, k := range key {
		path = append(path, k)
		if n := l.arrays[join(path)]; n > 0 {
			path = append(path, strconv.Itoa(n-1))
		}
	}
	return path
}

func (l *lines) mark(path []string) {
	for n := 1; n <= len(path); n++ {
		if p := join(path[:n]); l.at[p] == 0 {
			l.at[p] = l.line
		}
	}
}

// pair reads "key = value" and reports whether it could.
func (l *lines) pair(table []string) bool {
	path := append(table[:len(table):len(table)], l.key()...)
	l.mark(path)
	l.blank()
	if !l.accept('=') {
		return false
	}
	return l.value(path)
}

func (l *lines) value(path []string) bool {
	l.depth++
	defer func() { l.depth-- }()
	l.blank()
	switch {
	case l.depth > maxDepth || l.pos == len(l.text):
		return false
	case l.text[l.pos] == '"' || l.text[l.pos] == '\'':
		l.quoted()
		return true
	case l.accept('['):
		return l.items(path)
	case l.accept('{'):
		return l.inline(path)
	}
	start := l.pos
	for l.pos < len(l.text) && !strings.ContainsRune(",]}\n#", rune(l.text[l.pos])) {
		l.pos++
	}
	return l.pos > start
}

func (l *lines) items(path []string) bool {
	for i := 0; ; i++ {
		l.space()
		if l.accept(']') {
			return true
		}
		item := append(path[:len(path):len(path)], strconv.Itoa(i))
		l.mark(item)
		if !l.value(item) {
			return false
		}
		l.space()
		l.accept(',')
	}
}

func (l *lines) inline(path []string) bool {
	for {
		l.space()
		if l.accept('}') {
			return true
		}
		if !l.pair(path) {
			return false
		}
		l.space()
		l.accept(',')
	}
}

// key reads a key, bare or quoted, with its dots. It always has a part.
func (l *lines) key() []string {
	var key []string
	for {
		l.blank()
		key = append(key, l.part())
		l.blank()
		if !l.accept('.') {
			return key
		}
	}
}

func (l *lines) part() string {
	if l.pos < len(l.text) && (l.text[l.pos] == '"' || l.text[l.pos] == '\'') {
		raw := l.quoted()
		if s, err := strconv.Unquote(raw); err == nil && raw[0] == '"' {
			return s
		}
		return strings.Trim(raw, raw[:1])
	}
	start := l.pos
	for l.pos < len(l.text) && !strings.ContainsRune(" \t\r\n.=[]{}#,\"'", rune(l.text[l.pos])) {
		l.pos++
	}
	return l.text[start:l.pos]
}

// quoted skips a string of any of TOML's four kinds and returns it with its quotes.
func (l *lines) quoted() string {
	start := l.pos
	quote := l.text[l.pos : l.pos+1]
	if strings.HasPrefix(l.text[l.pos:], quote+quote+quote) {
		quote += quote + quote
	}
	l.pos += len(quote)
	for l.pos < len(l.text) && !strings.HasPrefix(l.text[l.pos:], quote) {
		if l.text[l.pos] == '\\' && quote[0] == '"' {
			l.pos++
		}
		if l.pos < len(l.text) && l.text[l.pos] == '\n' {
			l.line++
		}
		l.pos++
	}
	l.pos = min(l.pos+len(quote), len(l.text))
	for len(quote) == 3 && l.pos < len(l.text) && l.text[l.pos] == quote[0] { // up to two more belong to it
		l.pos++
	}
	return l.text[start:l.pos]
}

func (l *lines) accept(c byte) bool {
	if l.pos < len(l.text) && l.text[l.pos] == c {
		l.pos++
		return true
	}
	return false
}

// blank skips spaces on one line, space also line ends and comments.
func (l *lines) blank() {
	for l.pos < len(l.text) && strings.IndexByte(" \t\r", l.text[l.pos]) >= 0 {
		l.pos++
	}
}

func (l *lines) space() {
	for l.blank(); l.pos < len(l.text); l.blank() {
		switch l.text[l.pos] {
		case '\n':
			l.line++
			l.pos++
		case '#':
			if i := strings.IndexByte(l.text[l.pos:], '\n'); i >= 0 {
				l.pos += i
			} else {
				l.pos = len(l.text)
			}
		default:
			return
		}
	}
}
