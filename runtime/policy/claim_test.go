package policy

import "testing"

func TestAuthor(t *testing.T) {
	for a := Default; a <= Guardrail; a++ {
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Author
		if err := back.UnmarshalText(text); err != nil || back != a || a.String() != string(text) {
			t.Errorf("%d is %s, reads back as %d, %v", a, text, back, err)
		}
	}
	if s := Author(9).String(); s != "author(9)" {
		t.Errorf("got %s", s)
	}
	a := Operator
	if err := a.UnmarshalText([]byte("god")); err == nil || a != Operator {
		t.Errorf("read god as %v, %v", a, err)
	}
}

func TestParsePrefer(t *testing.T) {
	for _, p := range []Prefer{PreferRequest, PreferStrictest, PreferPrediction} {
		if got, err := ParsePrefer(string(p)); got != p || err != nil {
			t.Errorf("%s: %s, %v", p, got, err)
		}
	}
	if p, err := ParsePrefer("loosest"); err == nil || p != "" {
		t.Errorf("got %s, %v", p, err)
	}
	for _, d := range Dimensions {
		want := PreferStrictest
		if d == Resources {
			want = PreferRequest
		}
		if got := DefaultPrefer(d); got != want {
			t.Errorf("%s: %s", d, got)
		}
	}
}
