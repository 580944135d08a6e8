package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"forefend.dev/forefend/runtime/rewrite/rawjson"
)

// bounded refuses JSON that is not an object or holds too many values. It looks only
// at the structure: whether it is JSON at all the decoder says.
func bounded(raw []byte) error {
	if text := bytes.TrimLeft(raw, " \t\r\n"); len(text) == 0 || text[0] != '{' {
		return errors.New("not a JSON object")
	}
	if n := rawjson.Values(raw); n > rawjson.MaxValues {
		return fmt.Errorf("%d values, the most is %d", n, rawjson.MaxValues)
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
