package rawjson

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// object is a JSON object in its own order, duplicate keys included.
type object struct {
	members []member
	last    map[string]int // where each key is, the last time it is there
}

type member struct {
	key   string
	value json.RawMessage
}

func parse(raw json.RawMessage) *object {
	d := json.NewDecoder(bytes.NewReader(raw))
	o := &object{last: map[string]int{}}
	_, err := d.Token() // the opening brace: the caller looked
	for err == nil && d.More() {
		var m member
		key, _ := d.Token()
		m.key, _ = key.(string)
		err = d.Decode(&m.value)
		o.add(m)
	}
	return o
}

func (o *object) add(m member) {
	o.last[m.key] = len(o.members)
	o.members = append(o.members, m)
}

// value returns the text of a key, nil when it is not there.
func (o *object) value(key string) json.RawMessage {
	if i, ok := o.last[key]; ok {
		return o.members[i].value
	}
	return nil
}

// find returns where key is, the way encoding/json reads objects: the last
// spelling counts and, when fold is set, case does not. It returns -1 for a key
// that is not there.
func (o *object) find(key string, fold bool) int {
	if i, ok := o.last[key]; ok {
		return i
	}
	for i := len(o.members) - 1; fold && i >= 0; i-- {
		if strings.EqualFold(o.members[i].key, key) {
			return i
		}
	}
	return -1
}

// remove drops keys, all of them that are spelled as find would find them.
func (o *object) remove(gone []string) {
	spelled := make(map[string]bool)
	for _, key := range gone {
		if at := o.find(key, true); at >= 0 {
			spelled[o.members[at].key] = true
		}
	}
	o.members = slices.DeleteFunc(o.members, func(m member) bool { return spelled[m.key] })
}

func (o *object) text() json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o.members {
		if i > 0 {
			b.WriteByte(',')
		}
		key, _ := encode(m.key)
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}
