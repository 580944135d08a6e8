package eval

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// labelled makes a series of n steps with windows from first to last step.
func labelled(n int, windows ...[2]int) *nabFile {
	f := &nabFile{name: "d/x.csv", values: make([]float64, n)}
	for _, w := range windows {
		f.windows = append(f.windows, nabWindow{fmt.Sprint(w[0]), w[0], w[1]})
	}
	return f
}

func alarmsAt(n int, steps ...int) []float64 {
	out := make([]float64, n)
	for _, s := range steps {
		out[s] = 1
	}
	return out
}

// TestNABSigmoid holds the figures that the benchmark's own source states.
func TestNABSigmoid(t *testing.T) {
	for place, want := range map[float64]float64{-1: 0.98661, -0.5: 0.84828, 0: 0, 1: -0.98661, 3.1: -1} {
		if got := nabSigmoid(place); math.Abs(got-want) > 1e-5 {
			t.Errorf("at %v: %v, want %v", place, got, want)
		}
	}
}

func TestNABNormal(t *testing.T) {
	f := labelled(1000, [2]int{300, 399}, [2]int{700, 799})
	for name, c := range map[string]struct {
		alarms []int
		want   float64
	}{
		"null":               {nil, 0},
		"perfect":            {[]int{300, 700}, 100},
		"more in the window": {[]int{300, 301, 399, 700, 705}, 100},
		"one of two":         {[]int{300}, 50},
		"in the probation":   {[]int{10, 149, 300, 700}, 100},
		"one false before":   {[]int{150, 300, 700}, 100 - 0.11*100/4},
		"late in both":       {[]int{350, 750}, 100 * (2*nabSigmoid(-0.5)/nabSigmoid(-1) + 2) / 4},
		// 99 steps behind a window of 100 is one length
		"one false behind": {[]int{300, 498, 700}, 100 + 0.11*nabSigmoid(1)*100/4},
		"far behind":       {[]int{300, 699, 700}, 100 - 0.11*100/4},
	} {
		if got := nabNormal(f.points(alarmsAt(1000, c.alarms...)), 1, 2); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestNABLongFile has a probation of 750 steps, however long the file is.
func TestNABLongFile(t *testing.T) {
	f := labelled(20_000, [2]int{1000, 1099})
	if got := len(f.points(make([]float64, 20_000))); got != 20_000-750 {
		t.Errorf("%d steps count", got)
	}
}

func TestReadNAB(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a/x.csv", "timestamp,value\n2014-04-01 00:00:00,1\n2014-04-01 00:05:00,2.5\n2014-04-01 00:10:00,-3\n")
	write("b/unlabelled.csv", "timestamp,value\n2014-04-01 00:00:00,1\n")
	write("combined_windows.json", `{"a/x.csv": [["2014-04-01 00:05:00.000000","2014-04-01 00:10:00.000000"]], "c/absent.csv": [["x","y"]]}`)
	files, err := readNAB(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	x := files[0]
	if x.name != "a/x.csv" || len(x.values) != 3 || x.values[2] != -3 || len(x.windows) != 1 || x.windows[0].first != 1 || x.windows[0].last != 2 {
		t.Errorf("%+v", x)
	}
	if len(files[1].windows) != 0 {
		t.Errorf("%+v", files[1])
	}
}

func TestThreeSigma(t *testing.T) {
	values := make([]float64, 100)
	for i := range values {
		values[i] = float64(i % 2)
	}
	values[80] = 10
	for i, a := range threeSigma(values) {
		if (a == 1) != (i == 80) {
			t.Errorf("step %d: %v", i, a)
		}
	}
}

func FuzzParseSeries(f *testing.F) {
	f.Add("timestamp,value\n2014-04-01 00:00:00,1\n2014-04-01 00:05:00.0,NaN\n", "2014-04-01 00:00:00", "2014-04-01 00:05:00")
	f.Fuzz(func(t *testing.T, text, from, to string) {
		s, err := parseSeries(strings.NewReader(text))
		if err != nil {
			return
		}
		s.label([][]string{{from, to}, {to, from}, {from}})
		s.points(make([]float64, len(s.values)))
		for i, w := range s.windows {
			if w.first > w.last || w.last >= len(s.values) || i > 0 && w.first <= s.windows[i-1].last {
				t.Fatalf("windows %v of %d steps", s.windows, len(s.values))
			}
		}
	})
}
