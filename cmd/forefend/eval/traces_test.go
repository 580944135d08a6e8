package eval

import (
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestAreaUnderROC(t *testing.T) {
	for name, c := range map[string]struct {
		normal, attack []float64
		want           float64
	}{
		"apart":          {[]float64{1, 2, 3}, []float64{4, 5}, 1},
		"the wrong way":  {[]float64{4, 5}, []float64{1, 2, 3}, 0},
		"no difference":  {[]float64{1, 1}, []float64{1}, 0.5},
		"three of four":  {[]float64{1, 3}, []float64{2, 4}, 0.75},
		"a tie and more": {[]float64{1, 2}, []float64{2}, 0.75},
	} {
		if got := areaUnderROC(c.normal, c.attack); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if !math.IsNaN(areaUnderROC(nil, []float64{1})) {
		t.Error("without normal traces there is no area")
	}
}

func TestFalseShareAt(t *testing.T) {
	attack := []float64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1} // nine of ten reach 2
	if got := falseShareAt([]float64{0, 1, 2, 3}, attack, 0.9); got != 0.5 {
		t.Errorf("got %v", got)
	}
	if got := falseShareAt([]float64{0, 1, 2, 3}, []float64{5}, 0.9); got != 0 {
		t.Errorf("one attack: %v", got)
	}
	if !math.IsNaN(falseShareAt(nil, attack, 0.9)) {
		t.Error("without normal traces there is no share")
	}
}

func TestStide(t *testing.T) {
	s := newStide(2)
	s.learn([]string{"a", "b", "c"})
	for text, want := range map[string]float64{"a b c": 0, "a c": 1, "a b a": 0.5, "a": 0, "": 0} {
		if got := s.score(strings.Fields(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestParseTraces(t *testing.T) {
	got, err := parseTraces(strings.NewReader("a\t1 2 3\n\nno tab\nempty\t\nb\t7\n"))
	if want := [][]string{{"1", "2", "3"}, {"7"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzParseTraces(f *testing.F) {
	f.Add("a\t1 2 3\nb\t7\n")
	f.Fuzz(func(t *testing.T, text string) {
		traces, _ := parseTraces(strings.NewReader(text))
		for _, trace := range traces {
			if len(trace) == 0 {
				t.Fatal("an empty trace")
			}
		}
	})
}
