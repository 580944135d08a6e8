package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

type doc struct {
	Name  string            `json:"name"`
	Flag  bool              `json:"flag,omitempty"`
	Num   *uint64           `json:"num,omitempty"`
	Sub   *sub              `json:"sub,omitempty"`
	Flat  sub               `json:"flat"`
	List  []sub             `json:"list,omitempty"`
	Words []string          `json:"words,omitempty"`
	Map   map[string]string `json:"map,omitempty"`
	Any   any               `json:"any,omitempty"`
}

type sub struct {
	A int      `json:"a,omitempty"`
	B []string `json:"b,omitempty"`
}

func TestEdit(t *testing.T) {
	for name, c := range map[string]struct {
		raw    string
		change func(*doc)
		want   string
	}{
		"nothing":                    {"{\n \"x\": 1.00,\t\"name\":\"a\" }", func(*doc) {}, "{\n \"x\": 1.00,\t\"name\":\"a\" }"},
		"a field":                    {`{"x":1e2,"name":"a"}`, func(d *doc) { d.Name = "b<&>" }, `{"x":1e2,"name":"b<&>"}`},
		"a new field":                {`{"name":"a"}`, func(d *doc) { d.Flag = true }, `{"name":"a","flag":true}`},
		"a field that said nothing":  {`{"flag":false,"name":"a"}`, func(d *doc) { d.Flag = true }, `{"flag":true,"name":"a"}`},
		"a removed field":            {`{"flag":true,"name":"a","y":[1, 2]}`, func(d *doc) { d.Flag = false }, `{"name":"a","y":[1, 2]}`},
		"twice, both removed":        {`{"flag":true,"flag":true,"name":""}`, func(d *doc) { d.Flag = false }, `{"name":""}`},
		"exact numbers":              {`{"num":18446744073709551615,"z":18446744073709551616}`, func(d *doc) { d.Name = "n" }, `{"num":18446744073709551615,"z":18446744073709551616,"name":"n"}`},
		"deep":                       {`{"name":"","sub":{"new": {"k":1.0},"a":1}}`, func(d *doc) { d.Sub.A = 2 }, `{"name":"","sub":{"new":{"k":1.0},"a":2}}`},
		"deep, absent":               {`{"name":""}`, func(d *doc) { d.Flat.A = 2 }, `{"name":"","flat":{"a":2}}`},
		"deep, null":                 {`{"name":"","flat":null}`, func(d *doc) { d.Flat.A = 2 }, `{"name":"","flat":{"a":2}}`},
		"other spelling":             {`{"NAME":"a"}`, func(d *doc) { d.Name = "b" }, `{"NAME":"b"}`},
		"other spelling, removed":    {`{"Flag":true,"name":""}`, func(d *doc) { d.Flag = false }, `{"name":""}`},
		"the last spelling counts":   {`{"NAME":"a","Name":"c"}`, func(d *doc) { d.Name = "b" }, `{"NAME":"a","Name":"b"}`},
		"map keys are exact":         {`{"map":{"k":"1"},"name":""}`, func(d *doc) { d.Map["K"] = "2" }, `{"map":{"k":"1","K":"2"},"name":""}`},
		"an element changes":         {`{"list":[{"a":1,"n":7},{"a":2, "n":8}]}`, func(d *doc) { d.List[0].A = 5 }, `{"list":[{"a":5,"n":7},{"a":2, "n":8}]}`},
		"an element goes":            {`{"list":[{"a":1,"n":7},{"a":2,"n":8}]}`, func(d *doc) { d.List = d.List[1:] }, `{"list":[{"a":2,"n":8}]}`},
		"an element comes":           {`{"list":[{"a":1,"n":7}]}`, func(d *doc) { d.List = append([]sub{{A: 9}}, d.List...) }, `{"list":[{"a":9},{"a":1,"n":7}]}`},
		"elements swap":              {`{"list":[{"a":1,"n":7},{"a":2,"n":8}]}`, func(d *doc) { d.List[0], d.List[1] = d.List[1], d.List[0] }, `{"list":[{"a":2,"n":8},{"a":1,"n":7}]}`},
		"one goes, one comes":        {`{"list":[{"a":1,"n":7},{"a":2,"n":8}]}`, func(d *doc) { d.List = []sub{d.List[1], {A: 3}} }, `{"list":[{"a":2,"n":8},{"a":3}]}`},
		"equal elements":             {`{"list":[{"a":1,"n":7},{"a":1,"n":8}]}`, func(d *doc) { d.List = append([]sub{{A: 4}}, d.List...) }, `{"list":[{"a":4},{"a":1,"n":8},{"a":1,"n":7}]}`},
		"elements of null":           {`{"list":[null,{"a":1}]}`, func(d *doc) { d.List[0].A = 3 }, `{"list":[{"a":3},{"a":1}]}`},
		"words":                      {`{"words":["a","b"]}`, func(d *doc) { d.Words = append(d.Words, "c") }, `{"words":["a","b","c"]}`},
		"another kind":               {`{"any":[1]}`, func(d *doc) { d.Any = map[string]any{"a": 1} }, `{"any":{"a":1}}`},
		"another kind, array":        {`{"any":{"a":1}}`, func(d *doc) { d.Any = []any{} }, `{"any":[]}`},
		"to null and back":           {`{"list":[{"a":1}],"any":{"x":[null]}}`, func(d *doc) { d.Any = map[string]any{"x": []any{nil, nil}} }, `{"list":[{"a":1}],"any":{"x":[null,null]}}`},
		"keys with strange spelling": {`{"\u00e9\n":1,"name":"a"}`, func(d *doc) { d.Name = "b" }, `{"é\n":1,"name":"b"}`},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := decode(t, c.raw), decode(t, c.raw)
			c.change(after)
			got, err := Edit([]byte(c.raw), view(t, before), after)
			if err != nil || string(got) != c.want {
				t.Fatalf("got %s, %v\nwant %s", got, err, c.want)
			}
			if !reflect.DeepEqual(generic(t, decode(t, string(got))), generic(t, after)) {
				t.Error("does not decode to what was asked for")
			}
		})
	}
}

func decode(t *testing.T, raw string) *doc {
	t.Helper()
	d := new(doc)
	if err := json.Unmarshal([]byte(raw), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func view(t *testing.T, v any) []byte {
	t.Helper()
	b, err := Text(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func generic(t *testing.T, v any) any {
	t.Helper()
	var g any
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestEditAmbiguous: where one spelling would overrule the edit of another, the
// edit fails and does not pretend.
func TestEditAmbiguous(t *testing.T) {
	for _, raw := range []string{
		`{"flag":true,"Flag":true}`,
		`{"sub":{"a":1,"b":["x"]},"sub":{"a":2}}`,
		`{"sub":{"A":1,"a":1}}`,
	} {
		before, after := decode(t, raw), decode(t, raw)
		after.Flag, after.Sub = false, nil
		if raw[2] == 's' {
			after.Sub = &sub{}
		}
		if out, err := Edit([]byte(raw), view(t, before), after); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("%s: got %s, %v", raw, out, err)
		}
	}
}

type picky struct {
	V any `json:"v"`
}

// UnmarshalJSON refuses what Edit wrote.
func (p *picky) UnmarshalJSON(b []byte) error {
	if strings.Contains(string(b), "bad") {
		return errors.New("picky")
	}
	p.V = "good"
	return nil
}

func TestEditErrors(t *testing.T) {
	if _, err := Edit([]byte(`{}`), []byte(`{"v":1}`), &picky{V: math.NaN()}); err == nil {
		t.Error("a value that cannot be encoded was")
	}
	if _, err := Edit([]byte(`{"v":1}`), []byte(`{"v":1}`), &picky{V: "bad"}); err == nil || err.Error() != "decode the edited JSON: picky" {
		t.Errorf("got %v", err)
	}
	for _, raw := range []string{``, `{"v":{"a":1}`, `{"v":1}}`} {
		if out, err := Edit([]byte(raw), []byte(`{"v":1}`), &picky{V: "x"}); err == nil {
			t.Errorf("%s: got %s", raw, out)
		}
	}
	// Text that is JSON, but not what before was decoded from.
	out, err := Edit([]byte(`{"v":[1,2]}`), []byte(`{"v":[1]}`), &picky{V: "good"})
	if err != nil || string(out) != `{"v":"good"}` {
		t.Errorf("got %s, %v", out, err)
	}
	if out := editArray(json.RawMessage(`[1,2]`), json.RawMessage(`[1]`), json.RawMessage(`[2]`)); string(out) != `[2]` {
		t.Errorf("an array of another length is replaced: %s", out)
	}
}

// TestUnknownSurvives: whatever changes in the typed view, what it does not
// know stays, in objects and in elements that stay.
func TestUnknownSurvives(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		anySub := rapid.Custom(func(rt *rapid.T) sub {
			return sub{A: rapid.IntRange(0, 3).Draw(rt, "a"), B: rapid.SliceOfN(rapid.StringN(0, 3, -1), 0, 2).Draw(rt, "b")}
		})
		anyDoc := rapid.Custom(func(rt *rapid.T) *doc {
			return &doc{Name: rapid.String().Draw(rt, "name"), Flag: rapid.Bool().Draw(rt, "flag"),
				Num: rapid.Ptr(rapid.Uint64(), true).Draw(rt, "num"), Sub: rapid.Ptr(anySub, false).Draw(rt, "sub"),
				Flat: anySub.Draw(rt, "flat"), List: rapid.SliceOfN(anySub, 0, 4).Draw(rt, "list"),
				Map: rapid.MapOf(rapid.String(), rapid.String()).Draw(rt, "map")}
		})
		raw := stuff(generic(t, anyDoc.Draw(rt, "before")))
		text, err := json.Marshal(raw)
		if err != nil {
			rt.Fatal(err)
		}
		before, after := decode(t, string(text)), anyDoc.Draw(rt, "after")
		out, err := Edit(text, view(t, before), after)
		if err != nil {
			rt.Fatalf("%s: %v", text, err)
		}
		var got map[string]any
		if err := json.Unmarshal(out, &got); err != nil {
			rt.Fatal(err)
		}
		for _, o := range []any{got, got["sub"], got["flat"]} {
			if m, ok := o.(map[string]any); !ok || m["future"] == nil {
				rt.Fatalf("an unknown field was lost: %s", out)
			}
		}
		if len(before.List) == len(after.List) {
			for _, e := range after.List {
				if !strings.Contains(string(out), `"future"`) {
					rt.Fatalf("an element lost an unknown field: %+v %s", e, out)
				}
			}
		}
		back, err := Edit(out, view(t, after), before)
		if err != nil || !reflect.DeepEqual(generic(t, decode(t, string(back))), generic(t, before)) {
			rt.Fatalf("the way back: %s, %v", back, err)
		}
	})
}

// stuff adds an unknown field to every object of a tree but the maps.
func stuff(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			if k != "map" {
				v[k] = stuff(v[k])
			}
		}
		v["future"] = json.RawMessage(`{"k": 1.50}`)
	case []any:
		for i := range v {
			v[i] = stuff(v[i])
		}
	}
	return v
}
