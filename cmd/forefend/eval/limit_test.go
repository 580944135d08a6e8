package eval

import (
	"math"
	"os"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/forecast"
)

func TestLimitScore(t *testing.T) {
	r := limitResult{Baselines: make(map[string]float64)}
	scoreLimit(&r, []foretold{{p: 0.5, trend: 1, reached: true}, {p: 0, trend: 1}, {p: 0.5, trend: 0}, {p: 1, trend: 1, reached: true}})
	if r.Brier != 0.125 || r.Baselines["persistence"] != 0.5 || r.Baselines["trend"] != 0.25 || r.Better != 0.75 || r.BaseRate != 0.5 {
		t.Errorf("got %+v", r)
	}
}

func TestFollowLimit(t *testing.T) {
	// 1 MB a second, a limit at 200 MB: the last 60 s before it are labelled reached.
	var samples []usageSample
	for i := range int64(300) {
		samples = append(samples, usageSample{i * 1000, float64(i) * 1e6})
	}
	all, hit, lead, _ := followLimit(forecast.New(forecast.Config{}).Track("memory", 0), samples, 200e6, time.Minute)
	count := 0
	for _, f := range all {
		if f.reached {
			count++
		}
	}
	if !hit || len(all) != 36 || count != 12 {
		t.Errorf("hit %v, %d forecasts, %d reached", hit, len(all), count)
	}
	if math.Abs(lead-60) > 11 {
		t.Errorf("lead %v s on a straight line", lead)
	}
	if p := trendReaches(samples[:100], 150e6, time.Minute); p != 1 {
		t.Errorf("trend %v", p)
	}
	if p := trendReaches(samples[:100], 170e6, time.Minute); p != 0 {
		t.Errorf("trend %v", p)
	}
}

// TestRecordedRuns holds the forecaster to what is written in docs/predictor/usage.md.
func TestRecordedRuns(t *testing.T) {
	f, err := openText("testdata/limit_runs.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	runs, err := readLimitRuns(f)
	if err != nil {
		t.Fatal(err)
	}
	if r := judgeLimit(runs); r.Runs < 10 || r.Better < 0.4 || r.Lead < 20 {
		t.Errorf("got %+v", r)
	}
}

func FuzzUsageReaders(f *testing.F) {
	f.Add("step,cpu_mhz,mem_kib\n0,1,2\n1,,3\n", "20110303,s1,1 2 3\n")
	f.Add("pod,t,mem_frac\na,1662858720,0.1\n", "x,y\n")
	f.Add("series,step,cpu_pct,mem_pct\nv_1,0,9.5,8.4\n", ",,\n")
	f.Add("run,seconds,memory\na,0.5,100\n", "")
	f.Fuzz(func(t *testing.T, rows, lines string) {
		dir := t.TempDir()
		for _, name := range []string{"vm_1.csv", "usage_bitbrains_index.csv", "usage_gcd2011.csv", "usage_alibaba_genai_pods.csv"} {
			if err := os.WriteFile(dir+"/"+name, []byte(rows), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(dir+"/usage_planetlab_cpu.csv", []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, family := range usageFamilies {
			all, err := family.read(dir, family.resources[0])
			if err != nil {
				continue
			}
			for _, s := range all {
				for _, v := range s.samples {
					if !(v.value >= 0) {
						t.Fatalf("%s: %v", family.name, v)
					}
				}
			}
		}
	})
}
