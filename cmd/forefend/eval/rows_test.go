package eval

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/anomaly"
)

// recording makes a capture of n rows; rows from label[0] to below label[1] are labelled.
func recording(n int, label ...int) capture {
	c := capture{name: "test", rows: make([]anomaly.Row, n), labels: make([]bool, n)}
	for i := 0; i+1 < len(label); i += 2 {
		for j := label[i]; j < label[i+1]; j++ {
			c.labels[j] = true
		}
	}
	return c
}

func TestFollow(t *testing.T) {
	for name, c := range map[string]struct {
		capture capture
		alarms  []int
		want    rowsTally
	}{
		"nothing":                       {recording(2000, 1000, 1010), nil, rowsTally{Episodes: 1}},
		"caught once":                   {recording(2000, 1000, 1010), []int{1001, 1005}, rowsTally{Episodes: 1, Caught: 1}},
		"two episodes, one caught":      {recording(2000, 100, 110, 1000, 1010), []int{1009}, rowsTally{Episodes: 2, Caught: 1}},
		"a false one, then a caught":    {recording(3000, 1000, 1010), []int{100, 1000}, rowsTally{Episodes: 1, Caught: 1, False: 1, Rows: 1}},
		"an alarm that goes on":         {recording(3000, 1000, 1010), []int{1000, 1400, 1800}, rowsTally{Episodes: 1, Caught: 1}},
		"the attack excuses the minute": {recording(3000, 1000, 1010), []int{900, 1000}, rowsTally{Episodes: 1, Caught: 1, Rows: 1}},
		"after the minute it is false":  {recording(3000, 1000, 1010), []int{1000, 1601}, rowsTally{Episodes: 1, Caught: 1, False: 1, Rows: 1}},
		"one alarm of three rows":       {recording(3000), []int{5, 605, 1205}, rowsTally{False: 1, Rows: 3}},
		"two alarms":                    {recording(3000), []int{5, 606}, rowsTally{False: 2, Rows: 2}},
		"at the end":                    {recording(3000), []int{2999}, rowsTally{False: 1, Rows: 1}},
	} {
		i := -1
		got := follow(c.capture, func(anomaly.Row) bool {
			i++
			for _, a := range c.alarms {
				if a == i {
					return true
				}
			}
			return false
		})
		normal := 0
		for _, l := range c.capture.labels {
			if !l {
				normal++
			}
		}
		if math.Abs(got.Hours-float64(normal)/36000) > 1e-9 {
			t.Errorf("%s: %v hours", name, got.Hours)
		}
		got.Hours = 0
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestParseCaptures(t *testing.T) {
	text := "trace\trow\tlabel\tcounts\ntrain10\t1\t0\tread:2 write:1\ntrain2\t0\t0\t\ntest1\t0\t1\ta:b:3\n"
	got, err := parseCaptures(strings.NewReader(text))
	want := []capture{
		{"test1", []anomaly.Row{{"a:b": 3}}, []bool{true}},
		{"train2", []anomaly.Row{{}}, []bool{false}},
		{"train10", []anomaly.Row{nil, {"read": 2, "write": 1}}, []bool{false, false}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"t\t0\t0\tread", "t\t0\t0\tread:x", "t\t999999999\t0\t", "t\t-1\t0\t"} {
		if _, err := parseCaptures(strings.NewReader(text)); !errors.Is(err, ErrRows) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestFreshNames(t *testing.T) {
	known := newFreshNames([]capture{{rows: []anomaly.Row{{"read": 1}, {"write": 1}}}})
	if known.alarm(anomaly.Row{"read": 5}) || !known.alarm(anomaly.Row{"read": 5, "execve": 1}) {
		t.Error("an alarm is a name that training never had")
	}
}

func FuzzParseCaptures(f *testing.F) {
	f.Add("train1\t0\t0\tread:2 write:1\ntest1\t1\t1\texecve:1\n")
	f.Fuzz(func(t *testing.T, text string) {
		captures, err := parseCaptures(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, c := range captures {
			if len(c.rows) != len(c.labels) {
				t.Fatalf("%d rows, %d labels", len(c.rows), len(c.labels))
			}
		}
	})
}
