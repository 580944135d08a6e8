package config

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/policy"
)

const day = 24 * time.Hour

// reader collects the problems of one file while its tables are read.
type reader struct {
	file     string
	lines    *lines
	columns  bool // problems tell their column too
	problems Problems
}

// table is one TOML table being read. Each method reads one key and leaves its
// destination alone when the key is missing or wrong; rest reports the keys no
// method asked for.
type table struct {
	*reader
	path   []string
	values map[string]any
	known  []string
}

func (t *table) take(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

func (t *table) at(key string) []string { return append(t.path[:len(t.path):len(t.path)], key) }

// problem reports what is wrong at path.
func (r *reader) problem(path []string, fix, format string, args ...any) {
	at := r.lines.find(path)
	if !r.columns {
		at.column = 0
	}
	r.problems = append(r.problems, Problem{File: r.file, Line: at.line, Column: at.column, Key: name(path),
		Message: fmt.Sprintf(format, args...), Fix: fix})
}

// name is a path as people write it, with dots and without the numbers of items.
func name(path []string) string {
	var b strings.Builder
	for i, p := range path {
		if _, err := strconv.Atoi(p); err == nil && i > 0 {
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(short(p))
	}
	return b.String()
}

// short keeps hostile keys from filling a report.
func short(s string) string {
	if len(s) > 60 || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return fmt.Sprintf("%.60q", s)
	}
	return s
}

func (t *table) sub(key string) *table {
	v, ok := t.take(key)
	values, isTable := v.(map[string]any)
	if ok && !isTable {
		t.problem(t.at(key), "write ["+name(t.at(key))+"] and its keys below", "is not a table")
	}
	return &table{reader: t.reader, path: t.at(key), values: values}
}

// subs reads an array of tables.
func (t *table) subs(key string) []*table {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	var list []map[string]any
	switch v := v.(type) {
	case []map[string]any:
		list = v
	case []any:
		for _, item := range v {
			if m, ok := item.(map[string]any); ok {
				list = append(list, m)
			}
		}
		if len(list) != len(v) {
			list = nil
		}
	}
	if list == nil {
		t.problem(t.at(key), "write [["+key+"]] and its keys below", "is not a list of tables")
	}
	var out []*table
	for i, m := range list {
		out = append(out, &table{reader: t.reader, path: append(t.at(key), strconv.Itoa(i)), values: m})
	}
	return out
}

func (t *table) text(key string, into *string) bool {
	v, ok := t.take(key)
	if !ok {
		return false
	}
	s, ok := v.(string)
	if !ok {
		t.problem(t.at(key), "put it in quotes", "is %s, not a string", kind(v))
		return false
	}
	*into = s
	return true
}

// file reads an absolute path, or "" for none.
func (t *table) file(key string, into *string, example string) {
	s := *into
	if !t.text(key, &s) {
		return
	}
	if s != "" && (!filepath.IsAbs(s) || strings.ContainsAny(s, "\x00\n")) {
		t.problem(t.at(key), `write an absolute path such as "`+example+`", or "" for none`, "%.60q is not an absolute path", s)
		return
	}
	*into = s
}

// word reads a string that is one of the given.
func (t *table) word(key string, into *string, words ...string) {
	s := *into
	if !t.text(key, &s) {
		return
	}
	if !slices.Contains(words, s) {
		t.problem(t.at(key), "write one of "+strings.Join(words, ", "), "%.60q is unknown", s)
		return
	}
	*into = s
}

func (t *table) flag(key string, into *bool) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	b, ok := v.(bool)
	if !ok {
		t.problem(t.at(key), "write true or false without quotes", "is %s", kind(v))
		return
	}
	*into = b
}

// duration reads a Go duration or a number of days such as "90d".
func (t *table) duration(key string, into *time.Duration, least, most time.Duration) {
	fix := fmt.Sprintf("write a duration from %s to %s such as %q", spell(least), spell(most), spell(*into))
	var s string
	if !t.text(key, &s) {
		return
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // 65535 days fit a Duration
		d = time.Duration(n) * day
	}
	switch {
	case err != nil:
		t.problem(t.at(key), fix, "%.60q is not a duration", s)
	case d < least || d > most:
		t.problem(t.at(key), fix, "%s is out of range", spell(d))
	default:
		*into = d
	}
}

// spell prints a duration as duration reads it, without a tail of zeros.
func spell(d time.Duration) string {
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (t *table) integer(key string, into *int, least, most int) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	n, ok := v.(int64)
	if !ok || n < int64(least) || n > int64(most) {
		t.problem(t.at(key), fmt.Sprintf("write a whole number from %d to %d", least, most), "%s is not in range", shown(v))
		return
	}
	*into = int(n)
}

// fraction reads a number from least to most.
func (t *table) fraction(key string, into *float64, least, most float64) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	f, ok := v.(float64)
	if n, isInt := v.(int64); isInt {
		f, ok = float64(n), true
	}
	if !ok || math.IsNaN(f) || f < least || f > most {
		t.problem(t.at(key), fmt.Sprintf("write a number from %v to %v", least, most), "%s is not in range", shown(v))
		return
	}
	*into = f
}

// size reads bytes in the words of the policy key memory.
func (t *table) size(key string, into *int64) {
	var s string
	if !t.text(key, &s) {
		return
	}
	v, err := policy.KeyMemory.Parse(s)
	if err != nil {
		t.problem(t.at(key), `write a size such as "1Gi"`, "%s", reason(policy.KeyMemory, err))
		return
	}
	*into = int64(v)
}

// strings reads a list of strings, each with its path.
func (t *table) strings(key string, each func(path []string, s string)) {
	if v, ok := t.take(key); ok {
		t.items(t.at(key), v, each)
	}
}

// items reads v as a list of strings.
func (r *reader) items(path []string, v any, each func(path []string, s string)) {
	list, ok := v.([]any)
	if !ok {
		r.problem(path, `write a list such as ["one", "two"]`, "is %s, not a list", kind(v))
		return
	}
	for i, item := range list {
		at := append(path[:len(path):len(path)], strconv.Itoa(i))
		if s, ok := item.(string); ok {
			each(at, s)
			continue
		}
		r.problem(at, "put it in quotes", "item %d is %s, not a string", i+1, kind(item))
	}
}

// rest reports keys that nothing has read.
func (t *table) rest() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if !slices.Contains(t.known, key) {
			t.unknown(t.at(key), t.known)
		}
	}
}

func (r *reader) unknown(path, known []string) {
	last := path[len(path)-1]
	fix := "remove it"
	switch near := nearest(last, known); {
	case near != "":
		fix = fmt.Sprintf("did you mean %s?", near)
	case len(path) > 1 && slices.Contains(topKeys, last):
		fix = "move it to the top of the file, above the first [table]"
	case len(known) > 0:
		fix = "known here are " + strings.Join(known, ", ")
	}
	r.problem(path, fix, "unknown key")
}

// kind names the TOML type of a value.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64, float64:
		return "a number"
	case bool:
		return "true or false"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	}
	return "a list"
}

func shown(v any) string {
	switch v := v.(type) {
	case int64, float64, bool:
		return fmt.Sprint(v)
	}
	return kind(v)
}
