package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

// whole is a Context whose every part is set, to what n makes of it.
func whole(t testing.TB, n int) (c Context) {
	t.Helper()
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.String:
			f.SetString(fmt.Sprintf("%s %d", v.Type().Field(i).Name, n))
		case f.Kind() == reflect.Int:
			f.SetInt(int64(n + 1))
		case f.Type() == reflect.TypeFor[netip.AddrPort]():
			f.Set(reflect.ValueOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 443)))
		case f.Type() == reflect.TypeFor[[]string]():
			f.Set(reflect.ValueOf([]string{"a", fmt.Sprint(n)}))
		case f.Type() == reflect.TypeFor[*Process]():
			f.Set(reflect.ValueOf(&Process{Executable: "/bin/x", PID: n}))
		default:
			t.Fatalf("no value for %s", v.Type().Field(i).Name)
		}
	}
	return c
}

// TestMany: Contexts that travel together arrive as they were, whatever differs.
func TestMany(t *testing.T) {
	alike := whole(t, 1)
	some := alike
	some.Host, some.Names, some.Process, some.Destination, some.Credential = "", nil, nil, netip.AddrPort{}, ""
	for name, c := range map[string]struct {
		all    []Context
		differ int
	}{
		"one":            {[]Context{alike}, 1}, // a token is never left to the base
		"alike":          {[]Context{some, some, some}, 0},
		"all of it":      {[]Context{alike, whole(t, 2), whole(t, 3)}, reflect.TypeFor[Context]().NumField()},
		"nothing, after": {[]Context{alike, {}, some}, reflect.TypeFor[Context]().NumField()},
		"nothing before": {[]Context{{}, alike}, reflect.TypeFor[Context]().NumField()},
		"some":           {[]Context{some, alike}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(ManyOf(c.all))
			if err != nil {
				t.Fatal(err)
			}
			var m Many
			if err := json.Unmarshal(body, &m); err != nil {
				t.Fatal(err)
			}
			got, err := m.Contexts(len(c.all))
			if err != nil || !reflect.DeepEqual(got, c.all) || len(m.Differ) != c.differ {
				t.Errorf("%v\n%s\n%+v", err, body, got)
			}
		})
	}
}

// TestManyIsNotTrusted: what does not fit is an error.
func TestManyIsNotTrusted(t *testing.T) {
	for name, m := range map[string]Many{
		"none":        {},
		"fewer":       {Count: -1},
		"too many":    {Count: 4},
		"short":       {Count: 2, Differ: map[string][]string{"host": {"a"}}},
		"long":        {Count: 2, Differ: map[string][]string{"host": {"a", "b", "c"}}},
		"unknown":     {Count: 1, Differ: map[string][]string{"hosts": {"a"}}},
		"no number":   {Count: 1, Differ: map[string][]string{"risk": {"high"}}},
		"no address":  {Count: 1, Differ: map[string][]string{"destination": {"a"}}},
		"no process":  {Count: 1, Differ: map[string][]string{"process": {"{"}}},
		"other names": {Count: 1, Differ: map[string][]string{"names": {"{}"}}},
	} {
		if all, err := m.Contexts(3); err == nil {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

// TestAnswers: what is the same is said once, for as long as the first of it holds, and nothing else is taken for it.
func TestAnswers(t *testing.T) {
	d := Decision{Version: Version, Epoch: 7, Reason: "r", Depends: []Field{FieldHost}, Matches: []Match{{"m", "because"}}, RuleVersion: "1",
		Profile: Profile{Encryption: Strong, Rates: []Rate{{Bytes: 1}}}}
	for name, change := range map[string]func(*Decision){
		"version":    func(d *Decision) { d.Version++ },
		"epoch":      func(d *Decision) { d.Epoch++ },
		"reason":     func(d *Decision) { d.Reason = "s" },
		"rules":      func(d *Decision) { d.RuleVersion = "2" },
		"depends":    func(d *Decision) { d.Depends = nil },
		"matches":    func(d *Decision) { d.Matches = nil },
		"deny":       func(d *Decision) { d.Profile.Deny = true },
		"encryption": func(d *Decision) { d.Profile.Encryption = None },
		"dedicated":  func(d *Decision) { d.Profile.Dedicated = true },
		"endpoint":   func(d *Decision) { d.Profile.Endpoint = "e" },
		"class":      func(d *Decision) { d.Profile.QoS = QoSBulk },
		"rates":      func(d *Decision) { d.Profile.Rates = nil },
	} {
		o := d
		change(&o)
		var a Answers
		for _, is := range []*Decision{&d, &o, nil, &d} {
			a.Add(is)
		}
		if a.Of(2) != nil || !reflect.DeepEqual(a.Of(0), &d) || !reflect.DeepEqual(a.Of(1), &o) || !reflect.DeepEqual(a.Of(3), &d) {
			t.Errorf("%s: %+v", name, a)
		}
	}
	var a Answers
	for _, valid := range []time.Duration{0, 5, 3, 0, 4} {
		d.Valid = valid
		a.Add(&d)
	}
	if len(a.Decisions) != 1 || a.Decisions[0].Valid != 3 || !slices.Equal(a.Which, []int{0, 0, 0, 0, 0}) {
		t.Errorf("%+v", a)
	}
	if a.Which[1] = 1; a.Of(1) != nil {
		t.Error("an answer that there is not")
	}
}
