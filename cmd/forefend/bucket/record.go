package bucket

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
)

// Bounds of a version: with its envelope it fits into a message and into a record, of 4 MiB each.
const (
	MaxFiles = 256
	MaxBytes = 2 << 20 // of all files and their names together
	maxName  = 128
)

// format is the version of what is kept on disk. Raise it when a reader of the old one would misread a record, and keep a golden file
// of the old one.
const format = 1

// errNewer says that a later release wrote a record.
var errNewer = errors.New("a later release of forefend wrote it")

// record is a version as it is kept, as JSON.
type record struct {
	Format int `json:"format"`
	api.RuleFiles
}

// Check says why files cannot be a version: by their number, names and size, not by what is in them.
func Check(files map[string][]byte) error {
	if len(files) == 0 {
		return errors.New("there are no rule files (*.toml); a version without rules is a file without any")
	}
	if len(files) > MaxFiles {
		return fmt.Errorf("%d rule files, the most is %d", len(files), MaxFiles)
	}
	for name := range files {
		if !validName(name) {
			return fmt.Errorf("%.160q is no name for a rule file in the store: letters, digits, dots, dashes and underscores, at most %d, ending in .toml", name, maxName)
		}
	}
	if n := size(files); n > MaxBytes {
		return fmt.Errorf("the files have %d bytes together, the most is %d MiB", n, MaxBytes>>20)
	}
	return nil
}

// validName lets only such names pass that whoever pulls can write into a directory, and read there as rules.
func validName(name string) bool {
	const others = "-._"
	return len(name) <= maxName && rules.Wanted(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}

func size(files map[string][]byte) (n int) {
	for name, text := range files {
		n += len(name) + len(text)
	}
	return n
}

// encode makes a record's body.
func encode(v api.RuleFiles) ([]byte, error) {
	return json.Marshal(record{format, v})
}

// decode reads a record's body, and believes none of it. errNewer: it is not for this release to judge.
func decode(body []byte) (v api.RuleFiles, err error) {
	var r record
	if err := json.Unmarshal(body, &r); err != nil {
		return v, fmt.Errorf("a version of rules: %w", err)
	}
	switch {
	case r.Format > format:
		return v, errNewer
	case r.Format != format || r.Number == 0:
		return v, fmt.Errorf("a version of rules: number %d in format %d", r.Number, r.Format)
	}
	if err := Check(r.Contents); err != nil {
		return v, fmt.Errorf("version %d of the rules: %w", r.Number, err)
	}
	if is := rules.Digest(r.Contents); is != r.Digest {
		return v, fmt.Errorf("version %d of the rules: its digest is %s, not %.80s", r.Number, is, r.Digest)
	}
	return r.RuleFiles, nil
}

// snapshot is the name of the second copy of the newest version.
const snapshot = "rules"

// Peek returns the newest version of the store below dir, which a daemon may have open: for commands. found is false if there is none.
func Peek(dir string) (v api.RuleFiles, found bool, err error) {
	found, err = store.PeekSnapshot(dir, snapshot, func(r io.Reader) error {
		body, err := io.ReadAll(io.LimitReader(r, store.MaxRecord+1))
		if err == nil {
			v, err = decode(body)
		}
		return err
	})
	return v, found, err
}

// clean bounds what a caller says of itself, and takes out what could fool a terminal.
func clean(s string, most int) string {
	s = output.Printable(s)
	for len(s) > most {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
	}
	return s
}
