package eval

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One scenario whose exploit executes a program, and one whose honest runs do something new.
func TestRecommendKnownAnswer(t *testing.T) {
	dir := t.TempDir()
	scenario := func(name, normal, exploit string) {
		var b strings.Builder
		for i := range 12 {
			fmt.Fprintf(&b, "train%d\t0\t0\tread:1\twrite:2\n", i)
		}
		fmt.Fprintf(&b, "test1\t0\t0\t%s\ntest1\t1\t1\t%s\n", normal, exploit)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	scenario("CVE-2020-0001.txt", "read:1", "execve:1\tread:1")
	scenario("CVE-2020-0002.txt", "mkdir:1", "mkdir:1")
	r, err := evaluateRecommend(dir, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	// Open: both attacks succeed, half of the runs: 10 * .5. Strictest: both stopped, the second scenario broken in both runs.
	if o := r.Baselines["always-open"]; math.Abs(o.Cost-5) > 1e-9 || o.Success != 1 || o.Broken != 0 {
		t.Errorf("open: %+v", o)
	}
	if s := r.Baselines["always-strictest"]; math.Abs(s.Cost-0.5) > 1e-9 || s.Success != 0 || s.Broken != 0.5 {
		t.Errorf("strictest: %+v", s)
	}
	// Ours is strict where the risk is: one run of four broken.
	if math.Abs(r.Cost-0.25) > 1e-9 || r.Broken != 0.25 || math.Abs(r.Below-0.5) > 1e-9 || r.Captures != 2 {
		t.Errorf("%+v", r)
	}
	if _, err := evaluateRecommend(t.TempDir(), 0.5); err == nil {
		t.Error("an empty directory is judged")
	}
	if _, err := evaluateRecommend(dir, 1); err == nil {
		t.Error("all attacked is accepted")
	}
}
