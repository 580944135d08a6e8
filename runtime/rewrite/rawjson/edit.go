package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrAmbiguous says that an object has a key twice, or in two spellings that
// differ by case, so that an edit of one would be overruled by the other.
var ErrAmbiguous = errors.New("the same key is given more than once")

// Text is the typed view of v as Edit compares it: take it before v changes.
func Text(v any) ([]byte, error) {
	text, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("encode the view: %w", err)
	}
	return text, nil
}

// Edit returns raw, whose typed view was before (Text), changed so that it
// decodes to after. Without a change it returns raw itself. Objects keep unknown fields
// at every level; so do elements of an array that stay equal, wherever they move, and
// elements that change in place. The result is decoded again and compared, so an
// edit that did not take is ErrAmbiguous and never a silent loss.
func Edit[T any](raw, before []byte, after *T) ([]byte, error) {
	now, err := Text(after)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(before, now) {
		return raw, nil
	}
	if !json.Valid(raw) {
		return nil, errors.New("the text is not JSON")
	}
	out := edit(raw, before, now)
	var check T
	if err := json.Unmarshal(out, &check); err != nil {
		return nil, fmt.Errorf("decode the edited JSON: %w", err)
	}
	if got, err := encode(&check); err != nil || !bytes.Equal(got, now) {
		return nil, errors.Join(ErrAmbiguous, err)
	}
	return out, nil
}

// encode leaves &, < and > as they are, unlike json.Marshal. Two values of one
// type are equal exactly when their text is: fields have an order and Go sorts maps.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// edit makes in raw the change from before to after. All three are JSON; nil
// stands for what is not there.
func edit(raw, before, after json.RawMessage) json.RawMessage {
	all := func(c byte) bool { return starts(raw, c) && starts(before, c) && starts(after, c) }
	switch {
	case all('{'):
		return editObject(raw, before, after)
	case all('['):
		return editArray(raw, before, after)
	}
	return after
}

func starts(raw []byte, c byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == c
}

func editObject(raw, before, after json.RawMessage) json.RawMessage {
	o, b, a := parse(raw), parse(before), parse(after)
	for _, m := range a.members {
		was := b.value(m.key)
		if bytes.Equal(was, m.value) {
			continue
		}
		at := o.find(m.key, was != nil)
		if at < 0 {
			o.add(m)
			continue
		}
		o.members[at].value = edit(o.members[at].value, was, m.value)
	}
	var gone []string
	for _, m := range b.members {
		if a.value(m.key) == nil {
			gone = append(gone, m.key)
		}
	}
	o.remove(gone)
	return o.text()
}
