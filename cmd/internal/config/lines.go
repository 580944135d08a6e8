package config

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of values that lines follows.
const maxDepth = 32

// lines knows where each key, each item of an array and each value begins. The
// TOML library keeps that to itself. A path is the keys from the top; tables
// and items of an array are counted from "0".
type lines struct {
	at     map[string]place // joined path -> where it begins
	values map[string]int   // joined path of a value -> its offset
	arrays map[string]int   // joined path of a [[table]] -> number of its tables
	text   string
	pos    int
	line   int
	depth  int
}

// place is a position in a file, both counted from 1; columns are bytes.
type place struct{ line, column int }

func join(path []string) string { return strings.Join(path, "\x00") }

// scanLines indexes text, which the TOML parser has accepted. On other text
// it ends early, with less of an index.
func scanLines(text string) *lines {
	l := &lines{at: make(map[string]place), values: make(map[string]int), arrays: make(map[string]int), text: text, line: 1}
	var table []string
	for l.space(); l.pos < len(l.text); l.space() {
		start := l.pos
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
		l.mark(table, start)
		l.accept(']')
	}
	return l
}

// find returns the place of path, or of the nearest part of it that has one.
func (l *lines) find(path []string) place {
	for n := len(path); n > 0; n-- {
		if at, ok := l.at[join(path[:n])]; ok {
			return at
		}
	}
	return place{}
}

// within returns the place of a byte of a string, counted as the string is once read. Where the string is not in the text, it is
// that of its key.
func (l *lines) within(path []string, offset int) place {
	start, ok := l.values[join(path)]
	if !ok {
		return l.find(path)
	}
	pos := start + rawOffset(l.text[start:], offset)
	return place{1 + strings.Count(l.text[:pos], "\n"), l.column(pos)}
}

// column is how far pos is from the beginning of its line.
func (l *lines) column(pos int) int { return pos - strings.LastIndexByte(l.text[:pos], '\n') }

// rawOffset finds the byte of a string's text, quotes and escapes included, that is at an offset of what the string says.
func rawOffset(raw string, offset int) int {
	quotes := 1
	if strings.HasPrefix(raw, `"""`) || strings.HasPrefix(raw, `'''`) {
		quotes = 3
	}
	pos := min(quotes, len(raw))
	if quotes == 3 { // a line end right after the quotes is not part of it
		pos += len(raw[pos:]) - len(strings.TrimPrefix(strings.TrimPrefix(raw[pos:], "\r"), "\n"))
	}
	for pos < len(raw) {
		said, took := 1, 1
		if raw[pos] == '\\' && raw[0] == '"' && pos+1 < len(raw) {
			said, took = escape(raw[pos:])
		}
		if said > 0 && offset <= 0 {
			break
		}
		pos, offset = pos+took, offset-said
	}
	return min(pos, len(raw))
}

// escape is how many bytes the escape that s begins with says, and how many it takes. Nothing is said by a line end that is
// escaped: the line goes on where the next one has text.
func escape(s string) (said, took int) {
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[1]]
	switch {
	case digits > 0:
		n, _ := strconv.ParseUint(s[2:min(2+digits, len(s))], 16, 32) // the parser has accepted it
		return max(utf8.RuneLen(rune(n)), 1), 2 + digits
	case strings.IndexByte(" \t\r\n", s[1]) >= 0:
		return 0, 1 + len(s[1:]) - len(strings.TrimLeft(s[1:], " \t\r\n"))
	}
	return 1, 2
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

// mark notes that path begins at start, on the line that is being read.
func (l *lines) mark(path []string, start int) {
	for n := 1; n <= len(path); n++ {
		if p := join(path[:n]); l.at[p].line == 0 {
			l.at[p] = place{l.line, l.column(start)}
		}
	}
}

// pair reads "key = value" and reports whether it could.
func (l *lines) pair(table []string) bool {
	start := l.pos
	path := append(table[:len(table):len(table)], l.key()...)
	l.mark(path, start)
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
		l.values[join(path)] = l.pos
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
		l.mark(item, l.pos)
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
