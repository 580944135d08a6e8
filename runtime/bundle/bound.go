package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxValues bounds how many values a spec may hold. A spec of 16 MiB that is
// one long list of "{}" would be decoded into a gigabyte; real ones have a few
// thousand values and get long by their strings.
const maxValues = 1 << 17

// bounded refuses JSON that is not an object or holds too many values. It looks only
// at the structure: whether it is JSON at all the decoder says.
func bounded(raw []byte) error {
	if text := bytes.TrimLeft(raw, " \t\r\n"); len(text) == 0 || text[0] != '{' {
		return errors.New("not a JSON object")
	}
	values, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == ',' || c == '{' || c == '['):
			values++
		}
	}
	if values > maxValues {
		return fmt.Errorf("%d values, the most is %d", values, maxValues)
	}
	return nil
}

// at names the place of a decoding error: file:line:column.
func at(path string, raw []byte, err error) string {
	var offset int64
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	default:
		return path
	}
	before := raw[:min(max(offset, 0), int64(len(raw)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n') - 1
	return fmt.Sprintf("%s:%d:%d", path, line, column)
}
