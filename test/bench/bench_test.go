package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/root"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		q, want float64
	}{{nil, 0.5, 0}, {[]float64{7}, 0.99, 7}, {[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0.95, 4.8}, {[]float64{1, 2}, 1, 2}, {[]float64{1, 2}, 0, 1}} {
		if got := quantile(c.samples, c.q); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.samples, c.q, got, c.want)
		}
	}
	unsorted := []float64{3, 1, 2}
	if median(unsorted); !slices.Equal(unsorted, []float64{3, 1, 2}) {
		t.Error("the samples were reordered: their pairs are lost")
	}
}

func TestPaired(t *testing.T) {
	f := paired("x", "%.0f", "%+.1f", []float64{10, 20, 30}, []float64{11, 24, 33}, added)
	if f.Stock != "20" || f.Forefend != "24" || f.N != 3 || f.Value != 3 || f.Change != "+3.0, p95 +3.9" {
		t.Errorf("%+v", f)
	}
	if r := pairwise([]float64{2, 0, 1}, []float64{3, 1}, ratio); !slices.Equal(r, []float64{1.5, 0}) {
		t.Errorf("%v", r)
	}
}

func TestTarget(t *testing.T) {
	cost, rate, plain := target{must: 6, aim: 3, unit: " ms"}, target{must: 0.98, aim: 1, atLeast: true}, target{must: 60, aim: 60}
	for _, c := range []struct {
		t     target
		value float64
		want  string
	}{{cost, 2, "aim"}, {cost, 6, "yes"}, {cost, 6.1, "NO"}, {rate, 1.01, "aim"}, {rate, 0.99, "yes"}, {rate, 0.9, "NO"}, {plain, 10, "yes"}} {
		if got := c.t.met(c.value); got != c.want {
			t.Errorf("%v of %v: %s, want %s", c.t, c.value, got, c.want)
		}
	}
	if cost.String() != "<= 6 (3) ms" || rate.String() != ">= 0.98 (1)" || plain.String() != "<= 60" {
		t.Errorf("%v, %v, %v", cost, rate, plain)
	}
}

func TestTableFitsTheTerminal(t *testing.T) {
	r := report{Machine: thisMachine(), Command: "make bench"}
	f := paired("daemon CPU, 200 idle (% of a core)", "%.1f", "%+.1f", []float64{1000}, []float64{1234.5}, added)
	r.Figures = []figure{f.hold(target{must: 0.98, aim: 0.3, unit: " MiB"}, 1)}
	var out bytes.Buffer
	r.print(&out)
	if !strings.Contains(out.String(), "+234.5, p95 +234.5") {
		t.Errorf("no figure in %s", &out)
	}
	for line := range strings.Lines(out.String()) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestReportKeepsSamples(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	want := report{Command: "c", Figures: []figure{alone("x", "1", []float64{1, 2})}}
	if err := want.save(path); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(body, &got); err != nil || !slices.Equal(got.Figures[0].Samples["forefend"], []float64{1, 2}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestChoose(t *testing.T) {
	if all, err := choose(""); err != nil || len(all) != len(measurements) {
		t.Errorf("%d, %v", len(all), err)
	}
	some, err := choose("calls,life")
	if err != nil || len(some) != 2 || some[0].name != "life" {
		t.Errorf("%+v, %v", some, err)
	}
	if _, err := choose("life,nothing"); err == nil {
		t.Error("an unknown name was taken")
	}
	for count, want := range map[string]int{"": 60, "7": 7, "0": 0, "x": 0} {
		if n, err := number(count, 60); n != want || (err == nil) != (want > 0) {
			t.Errorf("COUNT=%q: %d, %v", count, n, err)
		}
	}
}

// A measurement that fails does not cost the others their rows, and the failure is told.
func TestMeasureGoesOn(t *testing.T) {
	var out bytes.Buffer
	r := &report{}
	err := r.measure(t.Context(), &bench{out: &out}, []measurement{
		{"a", "breaks", func(context.Context, *bench) ([]figure, error) {
			return []figure{{Name: "half"}}, fmt.Errorf("no luck")
		}},
		{"b", "works", func(context.Context, *bench) ([]figure, error) { return []figure{{Name: "whole"}}, nil }},
	})
	if err == nil || !strings.Contains(err.Error(), "a: no luck") || len(r.Figures) != 2 || r.Figures[1].Name != "whole" {
		t.Errorf("%v, %+v", err, r.Figures)
	}
}

func TestTurnsAlternate(t *testing.T) {
	if a, b := inTurn(0), inTurn(1); a[0] != b[1] || a[1] != b[0] || a[0] == a[1] {
		t.Errorf("%v then %v", a, b)
	}
}

// What runs in the containers times what it says.
func TestInside(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	code := inside(nil)
	os.Stdout = stdout
	w.Close()
	var got timings
	if err := json.NewDecoder(r).Decode(&got); err != nil || code != 0 {
		t.Fatal(code, err)
	}
	if len(got.Native) != nativeBatches || len(got.Watched) != watchedCalls || median(got.Native) <= 0 || median(got.Watched) <= 0 {
		t.Errorf("%d native at %v ns, %d watched at %v ns", len(got.Native), median(got.Native), len(got.Watched), median(got.Watched))
	}
	if inside([]string{"spin", "none"}) == 0 {
		t.Error("spun on no thread")
	}
}

// The synthetic history is one the model accepts, and its runs of a workload resemble one another.
func TestSomeRun(t *testing.T) {
	f := someWorkload(7)
	a, b := someRun(7, f, time.Now()), someRun(10_007, f, time.Now())
	if len(a.Syscalls) != 60 || a.Run == b.Run || a.Keys[0] != b.Keys[0] {
		t.Errorf("%d calls, runs %s and %s", len(a.Syscalls), a.Run, b.Run)
	}
	for name := range a.Syscalls {
		if _, ok := b.Syscalls[name]; !ok {
			t.Errorf("%s is in one run only", name)
		}
	}
}

// The account sees what containers of both runtimes cost, and nothing is left of it.
func TestRootLifeIsCharged(t *testing.T) {
	root.Test(t)
	n, err := openNode(t.Context(), nil, "busybox")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		top := n.cpu.top
		if err := n.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(top); err == nil {
			t.Errorf("%s is still there", top)
		}
	}()
	for _, kind := range inTurn(0) {
		l, err := n.live(t.Context(), kind, n.id(kind))
		if err != nil {
			t.Fatal(err)
		}
		if l.cpu < 0.01 || l.cpu > 10 || l.wall < 0.01 || kind == forefend && l.of <= 0 {
			t.Errorf("%s: %+v", kind.name, l)
		}
		t.Logf("%s: %+v", kind.name, l)
	}
	if err := n.sealed(t.Context(), "forefend-2"); err == nil {
		t.Error("a first run passed for a sealed one")
	}
}
