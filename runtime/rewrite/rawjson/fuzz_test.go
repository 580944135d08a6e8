package rawjson

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// FuzzEdit edits one text so that it says what another says. The result decodes to that, and what the typed view does
// not know is as it was; or the edit is refused as ambiguous. Values counts at least what there is.
func FuzzEdit(f *testing.F) {
	for _, raw := range []string{
		`{}`, `{"name":"a"}`, `{"name":"a","x":{"y":[1,2,{"z":null}]},"sub":{"new":{"k":1.0},"a":1}}`,
		`{"NAME":"a","name":"b","Flag":true}`, `{"list":[{"a":1,"n":7},{"a":2,"n":8},null],"words":["a",null]}`,
		`{"map":{"k":"1","K":"2","":""},"any":[1,{"a":[]}],"num":18446744073709551615}`, ` {"flat" : {"b":["\u00e9","\\"]} , "sub":null }`,
		`{"sub":{"a":1},"sub":{"b":["x"]}}`, `{"any":{"a":{"a":{"a":{"a":1}}}}}`, `null`, `[]`, `{"name":1}`,
	} {
		for _, want := range []string{`{}`, `{"name":"b","sub":{"a":2},"list":[{"a":2}],"map":{"k":"9"},"any":{"b":1}}`} {
			f.Add([]byte(raw), []byte(want))
		}
	}
	f.Fuzz(func(t *testing.T, raw, wanted []byte) {
		var before, after doc
		if json.Unmarshal(raw, &before) != nil || json.Unmarshal(wanted, &after) != nil {
			return
		}
		out, err := Edit(raw, view(t, &before), &after)
		if err != nil {
			if !errors.Is(err, ErrAmbiguous) {
				t.Fatal(err)
			}
			return
		}
		if got := decode(t, string(out)); !reflect.DeepEqual(generic(t, got), generic(t, &after)) {
			t.Fatalf("%s\nto say\n%s\nbecame\n%s", raw, wanted, out)
		}
		if was, is := unknown(raw), unknown(out); !reflect.DeepEqual(was, is) {
			t.Fatalf("what is unknown was\n%v\nand is\n%v", was, is)
		}
		var text any
		if json.Unmarshal(out, &text) == nil && Values(out) < count(text) {
			t.Fatalf("%d values of %s, counted %d", count(text), out, Values(out))
		}
	})
}

// unknown are the members of the outermost object that doc has no place for.
func unknown(raw []byte) map[string]string {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	rest := make(map[string]string)
	for key, value := range all {
		probe, err := json.Marshal(map[string]int{key: 0}) // whatever doc knows refuses a number, or takes it
		var d doc
		if err != nil || json.Unmarshal(probe, &d) != nil || !reflect.DeepEqual(d, doc{}) {
			continue
		}
		rest[key] = string(value)
	}
	return rest
}

// count is how many arrays and objects there are, and values in them beyond the first.
func count(v any) int {
	n := 0
	switch v := v.(type) {
	case []any:
		n = max(1, len(v))
		for _, e := range v {
			n += count(e)
		}
	case map[string]any:
		n = max(1, len(v))
		for _, e := range v {
			n += count(e)
		}
	}
	return n
}
