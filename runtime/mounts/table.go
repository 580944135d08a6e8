package mounts

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxTable bounds a mount table that is read, in bytes; the kernel allows 100,000 mounts in a namespace.
const maxTable = 32 << 20

// mount is one line of a mountinfo file.
type mount struct {
	id, parent uint64
	root       string // what of its file system is mounted
	point      string // where, seen from the reader's root
	readonly   bool   // this mount; its file system may be read-only as well
	shared     bool   // what is mounted on it appears elsewhere, too
	kind       string // of file system
}

// parseTable reads a mountinfo file, see proc_pid_mountinfo(5). Lines are in the order in which mounts were made.
func parseTable(text []byte) ([]mount, error) {
	var out []mount
	for line := range bytes.Lines(text) {
		m, err := parseMount(string(bytes.TrimSuffix(line, []byte("\n"))))
		if err != nil {
			return nil, fmt.Errorf("mount table, line %d: %w", len(out)+1, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func parseMount(line string) (mount, error) {
	f := strings.Split(line, " ")
	dash := -1
	for i := 6; i < len(f) && dash < 0; i++ {
		if f[i] == "-" {
			dash = i
		}
	}
	if dash < 0 || len(f) < dash+3 {
		return mount{}, fmt.Errorf("%.100q has too few fields", line)
	}
	id, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return mount{}, fmt.Errorf("number of the mount: %w", err)
	}
	parent, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return mount{}, fmt.Errorf("number of the parent: %w", err)
	}
	m := mount{id: id, parent: parent, root: unescape(f[3]), point: unescape(f[4]), kind: f[dash+1]}
	for o := range strings.SplitSeq(f[5], ",") {
		m.readonly = m.readonly || o == "ro"
	}
	for _, tag := range f[6:dash] {
		m.shared = m.shared || strings.HasPrefix(tag, "shared:")
	}
	return m, nil
}

// unescape undoes the kernel's escaping of space, tab, newline, backslash and # as three octal digits.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func readTable(f *os.File) ([]mount, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	if len(text) > maxTable {
		return nil, fmt.Errorf("the mount table is larger than %d MiB", maxTable>>20)
	}
	return parseTable(text)
}

// find returns the mount with that number.
func find(table []mount, id uint64) (mount, bool) {
	for _, m := range table {
		if m.id == id {
			return m, true
		}
	}
	return mount{}, false
}

// below returns a mount whose mount point is below dir.
func below(table []mount, dir string) (mount, bool) {
	dir = strings.TrimSuffix(dir, "/") + "/"
	for _, m := range table {
		if strings.HasPrefix(m.point, dir) {
			return m, true
		}
	}
	return mount{}, false
}
