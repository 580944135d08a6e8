package eval

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWasteOfARun(t *testing.T) {
	const gb = 1e9
	for name, c := range map[string]struct {
		limit, peak, asked, hours float64
		waste                     float64
		violated                  bool
	}{
		"within":                    {10 * gb, 4 * gb, 16 * gb, 2, 12, false},
		"at the limit":              {4 * gb, 4 * gb, 16 * gb, 2, 0, false},
		"at the second try":         {4 * gb, 6 * gb, 16 * gb, 1, 4 + (8 - 6), true},
		"at the third":              {2 * gb, 6 * gb, 16 * gb, 0.5, (2 + 4 + (16 - 6)) * 0.5, true},
		"more than was asked for":   {2 * gb, 6 * gb, 5 * gb, 1, 2 + 4, true},
		"nobody asked for anything": {2 * gb, 6 * gb, 0, 1, 2 + 4, true},
	} {
		waste, violated := wasteOf(c.limit, c.peak, c.asked, c.hours)
		if math.Abs(waste-c.waste) > 1e-9 || violated != c.violated {
			t.Errorf("%s: %v GB·h, %t; want %v, %t", name, waste, violated, c.waste, c.violated)
		}
	}
}

func TestPointOf(t *testing.T) {
	p := pointOf(0.98, []outcome{
		{n: 0, ratio: 4, waste: 1}, {n: 1, violated: true, ratio: 0.5, waste: 2}, {n: 4, ratio: 3, waste: 1},
		{n: 5, ratio: 1}, {n: 19, ratio: 2}, {n: 19, ratio: 9}, {n: 20, violated: true, ratio: 0.9},
	})
	if p.Runs != 7 || p.Violations != 2./7 || p.Waste != 4 || p.Coverage != 0.98 {
		t.Errorf("%+v", p)
	}
	for name, want := range map[string]runsByN{
		"0": {1, 0, 4, 1}, "1-4": {2, 0.5, 1.75, 3}, "5-19": {3, 0, 2, 0}, "20+": {1, 1, 0.9, 0},
	} {
		if p.ByN[name] != want {
			t.Errorf("n = %s: %+v, want %+v", name, p.ByN[name], want)
		}
	}
	if empty := pointOf(0.9, nil); empty.Runs != 0 || empty.Violations != 0 || len(empty.ByN) != 4 {
		t.Errorf("%+v", empty)
	}
}

const header = "wf,container,process,task,cpus,req_mem_bytes,peak_rss_bytes,pct_cpu,read_chars,runtime_ms,start_ms,end_ms,status,exit\n"

func row(process string, asked, peak, start, end int) string {
	return fmt.Sprintf("w,quay.io/x/tool:1.2--h3,%s,1,2,%d,%d,90,5,%d,%d,%d,COMPLETED,0\n", process, asked, peak, end-start, start, end)
}

func parse(t *testing.T, text string) []taskRun {
	t.Helper()
	runs, err := parseRuns(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func TestReadRuns(t *testing.T) {
	text := header + row("A:B:SORT", 8e9, 2e9, 5000, 3605000) + row("A:B:SORT", 8e9, 1e9, 1000, 2000) +
		"w,i,p,1,2,0,,9,5,1,5,6,COMPLETED,0\n" + // no peak
		"w,i,p,1,2,0,-7,9,5,1,5,6,COMPLETED,0\n" +
		"w,i,p\n" // cut
	dir := t.TempDir()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte(text)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"runs.csv": []byte(text), "runs.csv.gz": packed.Bytes()} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		runs, err := readRuns(file)
		if err != nil || len(runs) != 2 {
			t.Fatalf("%s: %d runs, %v", name, len(runs), err)
		}
		r := runs[1] // the second by start
		if r.peak != 2e9 || r.asked != 8e9 || r.hours != 1 || !r.start.Equal(time.UnixMilli(5000)) || r.end.Sub(r.start) != time.Hour {
			t.Errorf("%s: %+v", name, r)
		}
		q := r.facts.Query()
		if q.Program != "sort" || q.Repository != "quay.io/x/tool" || q.Requested.Memory != 8e9 || q.Requested.CPUs != 2 || r.facts.Group != "w" {
			t.Errorf("%s: %+v", name, q)
		}
	}
	if _, err := readRuns(filepath.Join(dir, "none")); err == nil {
		t.Error("a file that is not there was read")
	}
	for _, text := range []string{"", "a,b\n1,2\n"} {
		if _, err := parseRuns(strings.NewReader(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
	few := parse(t, "process,peak_rss_bytes,start_ms,runtime_ms\np,5,1000,3600000\n")
	if len(few) != 1 || few[0].hours != 1 || few[0].end.Sub(few[0].start) != time.Hour {
		t.Errorf("with the fewest columns: %+v", few)
	}
}

// script notes what it is asked and told.
type script struct{ log []string }

func (s *script) Limit(r *taskRun, id int) float64 {
	s.log = append(s.log, fmt.Sprint("start ", id))
	return 1e9
}

func (s *script) Ended(r *taskRun, id int) { s.log = append(s.log, fmt.Sprint("end ", id)) }

func TestPlayInOrder(t *testing.T) {
	runs := parse(t, header+
		row("P", 4e9, 1e9, 1000, 3000)+ // 0
		row("P", 4e9, 2e9, 2000, 4000)+ // 1: none had ended
		row("P", 4e9, 1e9, 3000, 3000)+ // 2: the first ends just when it begins, and it takes no time
		row("Q", 4e9, 1e9, 3500, 9000)+ // 3: another workload
		row("P", 4e9, 1e9, 5000, 6000)) // 4
	s := &script{}
	out := playRuns(runs, s)
	if got, want := strings.Join(s.log, ","), "start 0,start 1,end 0,start 2,end 2,start 3,end 1,start 4,end 4,end 3"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	var n []int
	for _, o := range out {
		n = append(n, o.n)
	}
	if fmt.Sprint(n) != "[0 0 1 0 3]" || !out[1].violated || out[0].violated {
		t.Errorf("%v, %+v", n, out)
	}
}

func TestBaselines(t *testing.T) {
	runs := parse(t, header+row("P", 16e9, 1e9, 1000, 2000)+row("P", 16e9, 3e9, 3000, 4000)+row("P", 16e9, 2e9, 5000, 6000)+row("P", 16e9, 2e9, 7000, 8000))
	for name, want := range map[string][]float64{
		"request": {16, 16.0 / 3, 8, 8}, "max_past_15": {16, 1.15 / 3, 3.45 / 2, 3.45 / 2},
	} {
		for i, o := range playRuns(runs, baselines()[name]) {
			if math.Abs(o.ratio-want[i]) > 1e-9 {
				t.Errorf("%s: run %d has limit/peak %v, want %v", name, i, o.ratio, want[i])
			}
		}
	}
	vpa := playRuns(runs, baselines()["vpa"])
	if vpa[0].ratio != 16 || vpa[1].ratio < 1.15/3 || vpa[1].ratio > 1.15*1.05/3 || vpa[3].ratio < 3.45/2 || vpa[3].ratio > 1.05*3.45/2 {
		t.Errorf("%+v", vpa)
	}
	if unlimited(&taskRun{}) != wholeNode {
		t.Error("without a request and a history there is a limit")
	}
}

// A day halves the weight: what was common long ago no longer is.
func TestPeakHistogramForgets(t *testing.T) {
	began := time.Unix(0, 0)
	h := &peakHistogram{first: began}
	for range 100 {
		h.add(8e9, began)
	}
	h.add(1e9, began)
	if q := h.quantile(0.9); q < 8e9 || q > 8e9*1.06 {
		t.Errorf("%v", q)
	}
	for range 3 {
		h.add(1e9, began.Add(10*24*time.Hour))
	}
	if q := h.quantile(0.9); q < 1e9 || q > 1.06e9 {
		t.Errorf("ten days later: %v", q)
	}
	for _, peak := range []float64{1, 1e7, 2e7, 5e9, 1e30} {
		if b := bucketOf(peak); b < 0 || b > lastBucket {
			t.Errorf("%v is in bucket %d", peak, b)
		}
	}
}

// The daemon's history learns in the replay: a workload's later runs are bounded by its earlier ones, and
// what another file has taught makes the first one's limit lower.
func TestEvaluateRuns(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, rows ...string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(header+strings.Join(rows, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var rows []string
	for n := range 40 {
		rows = append(rows, row("X:FASTQC", 16e9, 1e9+n%3, 10000*(n+1), 10000*(n+1)+5000))
	}
	data, other := write("data.csv", rows...), write("other.csv", row("Y:FASTQC", 16e9, 1e9, 1000, 2000), row("Y:FASTQC", 16e9, 1e9, 3000, 4000))
	alone, err := evaluateRuns(context.Background(), data, "", []float64{0.98, 0.99})
	if err != nil {
		t.Fatal(err)
	}
	informed, err := evaluateRuns(context.Background(), data, other, []float64{0.98})
	if err != nil {
		t.Fatal(err)
	}
	p, q := alone.Points[0], informed.Points[0]
	if len(alone.Points) != 2 || len(alone.Baselines) != 3 || len(alone.Baselines["vpa"]) != 2 || p.Runs != 40 || p.Violations != 0 {
		t.Errorf("%+v", alone)
	}
	if first := p.ByN["0"].Ratio; first < 10 || first > 16 {
		t.Errorf("limit/peak of the first run is %v: most of the 16 that were asked for, not more", first)
	}
	if late := p.ByN["20+"]; late.Runs != 20 || late.Ratio > 1.3 {
		t.Errorf("%+v", late)
	}
	if q.ByN["0"].Ratio > 5 {
		t.Errorf("with a known program elsewhere: %+v", q.ByN["0"])
	}
	if _, err := evaluateRuns(context.Background(), write("empty.csv"), "", []float64{0.98}); err == nil {
		t.Error("no runs were evaluated")
	}
}

func FuzzParseRuns(f *testing.F) {
	f.Add(header + row("A:B", 1, 2, 3, 4))
	f.Add("process,peak_rss_bytes,start_ms\n\"\n")
	f.Add("peak_rss_bytes,process,start_ms,end_ms\n1e400,p,1e18,1e300\n")
	f.Fuzz(func(t *testing.T, text string) {
		runs, err := parseRuns(strings.NewReader(text))
		if err != nil || len(runs) > 100 {
			return
		}
		for _, limits := range baselines() {
			for _, o := range playRuns(runs, limits) {
				if math.IsNaN(o.waste) || o.n < 0 || o.n > len(runs) {
					t.Fatalf("%+v", o)
				}
			}
		}
	})
}
