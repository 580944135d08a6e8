package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// ErrAmbiguous says that an object has a key twice, or in two spellings that
// differ by case, so that an edit of one would be overruled by the other.
var ErrAmbiguous = errors.New("the same key is given more than once")

// Edit returns raw, which decodes to before, changed so that it decodes to
// after. Without a change it returns raw itself. Objects keep unknown fields at every
// level; so do elements of an array that stay equal, wherever they move, and
// elements that change in place. The result is decoded again and compared, so an
// edit that did not take is ErrAmbiguous and never a silent loss.
func Edit[T any](raw []byte, before, after *T) ([]byte, error) {
	old, errOld := tree(before)
	now, errNow := tree(after)
	if err := errors.Join(errOld, errNow); err != nil {
		return nil, err
	}
	if reflect.DeepEqual(old, now) {
		return raw, nil
	}
	if !json.Valid(raw) {
		return nil, errors.New("the text is not JSON")
	}
	out := edit(raw, old, now)
	var check T
	if err := json.Unmarshal(out, &check); err != nil {
		return nil, fmt.Errorf("decode the edited JSON: %w", err)
	}
	if got, err := tree(&check); err != nil || !reflect.DeepEqual(got, now) {
		return nil, errors.Join(ErrAmbiguous, err)
	}
	return out, nil
}

// tree is v as generic JSON with exact numbers.
func tree(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var t any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return t, d.Decode(&t)
}

// edit makes in raw, which is JSON, the change from before to after.
func edit(raw json.RawMessage, before, after any) json.RawMessage {
	if reflect.DeepEqual(before, after) {
		return raw
	}
	switch a := after.(type) {
	case map[string]any:
		if b, ok := before.(map[string]any); ok && starts(raw, '{') {
			return editObject(raw, b, a)
		}
	case []any:
		if b, ok := before.([]any); ok && starts(raw, '[') {
			return editArray(raw, b, a)
		}
	}
	return encode(after)
}

func starts(raw []byte, c byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == c
}

func editObject(raw json.RawMessage, before, after map[string]any) json.RawMessage {
	o := members(raw)
	for _, key := range slices.Sorted(maps.Keys(after)) {
		was, had := before[key]
		if had && reflect.DeepEqual(was, after[key]) {
			continue
		}
		at := o.find(key, had)
		if at < 0 {
			at, o = len(o), append(o, member{key: key})
		}
		o[at].value = edit(o[at].value, was, after[key])
	}
	for key := range before {
		if _, stays := after[key]; !stays {
			o = o.remove(key)
		}
	}
	return o.encode()
}

// editArray keeps the text of elements that are equal before and after, and
// edits the others in place when their number did not change.
func editArray(raw json.RawMessage, before, after []any) json.RawMessage {
	var texts []json.RawMessage
	if err := json.Unmarshal(raw, &texts); err != nil || len(texts) != len(before) {
		return encode(after)
	}
	from, taken := match(before, after)
	out := make([]json.RawMessage, len(after))
	for i := range after {
		switch {
		case from[i] >= 0:
			out[i] = texts[from[i]]
		case len(before) == len(after) && !taken[i]:
			out[i] = edit(texts[i], before[i], after[i])
		default:
			out[i] = encode(after[i])
		}
	}
	return encode(out)
}

// match finds for each element of after an equal one of before, its own place
// first; -1 where there is none. taken marks those used.
func match(before, after []any) (from []int, taken []bool) {
	from, taken = make([]int, len(after)), make([]bool, len(before))
	for i := range after {
		from[i] = -1
		if i < len(before) && reflect.DeepEqual(before[i], after[i]) {
			from[i], taken[i] = i, true
		}
	}
	places := make(map[string][]int)
	for i := range before {
		if !taken[i] {
			places[text(before[i])] = append(places[text(before[i])], i)
		}
	}
	for i := range after {
		if from[i] >= 0 {
			continue
		}
		if free := places[text(after[i])]; len(free) > 0 {
			from[i], taken[free[0]] = free[0], true
			places[text(after[i])] = free[1:]
		}
	}
	return from, taken
}

// text is a canonical form of generic JSON: Go encodes maps in key order.
func text(v any) string { return string(encode(v)) }

// encode leaves &, < and > as they are, unlike json.Marshal. What it is given was
// decoded from JSON, so it can be encoded; were it not, Edit would find out.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// object is a JSON object in its own order, duplicate keys included.
type object []member

type member struct {
	key   string
	value json.RawMessage
}

func members(raw json.RawMessage) object {
	d := json.NewDecoder(bytes.NewReader(raw))
	var o object
	_, err := d.Token() // the opening brace
	for err == nil && d.More() {
		var m member
		key, _ := d.Token()
		m.key, _ = key.(string)
		err = d.Decode(&m.value)
		o = append(o, m)
	}
	return o
}

// find returns where key is, the way encoding/json reads objects: the last
// spelling counts and, when fold is set, case does not.
func (o object) find(key string, fold bool) int {
	folded := -1
	for i := len(o) - 1; i >= 0; i-- {
		if o[i].key == key {
			return i
		}
		if fold && folded < 0 && strings.EqualFold(o[i].key, key) {
			folded = i
		}
	}
	return folded
}

// remove drops every spelling of key that find would find.
func (o object) remove(key string) object {
	at := o.find(key, true)
	if at < 0 {
		return o
	}
	spelled := o[at].key
	return slices.DeleteFunc(o, func(m member) bool { return m.key == spelled })
}

func (o object) encode() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(m.key))
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}
