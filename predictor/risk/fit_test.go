package risk

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// record is one line of the Vulnrichment data.
type record struct {
	Features
	cve, published string
	kev            bool
}

func vulnrichment(t *testing.T) []record {
	t.Helper()
	if testing.Short() {
		t.Skip("fits models: not in -short")
	}
	dir := os.Getenv("FOREFEND_DATA")
	if dir == "" {
		t.Skip("FOREFEND_DATA names no directory with risk_cve_features.csv.gz")
	}
	file, err := os.Open(filepath.Join(dir, "risk_cve_features.csv.gz"))
	if err != nil {
		t.Skip(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []record
	for _, r := range rows[1:] {
		score, _ := strconv.ParseFloat(r[2], 64)
		out = append(out, record{cve: r[0], published: r[1], kev: r[8] == "1",
			Features: Features{CVSS: score, Vector: r[3], Exploitation: r[4], Automatable: r[5], Impact: r[6], CWE: strings.Split(r[7], "|")}})
	}
	return out
}

// fit returns bias and weights of a logistic regression with a ridge penalty, by Newton's method.
func fit(list []record, ridge float64) []float64 {
	n := len(weights) + 1
	xs := make([][]float64, len(list))
	for i, r := range list {
		xs[i] = append([]float64{1}, r.values()...)
	}
	w := make([]float64, n)
	w[0] = -5
	for range 15 {
		g, h := make([]float64, n), make([][]float64, n)
		for j := range h {
			h[j] = make([]float64, n)
			if j > 0 {
				g[j], h[j][j] = -ridge*w[j], ridge
			}
		}
		for i, x := range xs {
			s := 0.0
			for j, v := range x {
				s += w[j] * v
			}
			p := 1 / (1 + math.Exp(-s))
			y := 0.0
			if list[i].kev {
				y = 1
			}
			q := max(p*(1-p), 1e-9)
			c := importance(list[i])
			for j, v := range x {
				if v == 0 {
					continue
				}
				g[j] += c * (y - p) * v
				for k := 0; k <= j; k++ {
					h[j][k] += c * q * v * x[k]
				}
			}
		}
		for j, d := range solve(h, g) {
			w[j] += min(max(d, -1), 1)
		}
	}
	return w
}

// importance is how much a record counts in the fit. What is asked for is what becomes exploited after it was published. A
// good part of the catalogue was found because it was exploited, and listed on the day of its publication: mostly local
// and user-assisted flaws of systems and browsers, corrected that day. The data has no day of listing, so those
// kinds of exploited records count less. Judgement, not a fit.
func importance(r record) float64 {
	m := metrics(r.Vector)
	switch {
	case !r.kev:
		return 1
	case m["RL"] == "O":
		return 0.3
	case m["AV"] == "L" || m["UI"] == "R":
		return 0.5
	}
	return 1
}

// solve returns x of h·x = g for a symmetric positive h, of which the lower half is set (Cholesky).
func solve(h [][]float64, g []float64) []float64 {
	n := len(g)
	for j := range n {
		for k := 0; k <= j; k++ {
			s := h[j][k]
			for l := range k {
				s -= h[j][l] * h[k][l]
			}
			if j == k {
				h[j][j] = math.Sqrt(s)
			} else {
				h[j][k] = s / h[k][k]
			}
		}
	}
	x := slices.Clone(g)
	for j := range n {
		for l := range j {
			x[j] -= h[j][l] * x[l]
		}
		x[j] /= h[j][j]
	}
	for j := n - 1; j >= 0; j-- {
		for l := j + 1; l < n; l++ {
			x[j] -= h[l][j] * x[l]
		}
		x[j] /= h[j][j]
	}
	return x
}

// ridge was chosen by the cross-validation that TestCrossValidation repeats.
const ridge = 1

// TestFit makes the weights again from the data and compares them with those in weights.go.
func TestFit(t *testing.T) {
	w := fit(vulnrichment(t), ridge)
	var text strings.Builder
	fmt.Fprintf(&text, "bias = %.2f\n", w[0])
	worst := math.Abs(w[0] - bias)
	for i, x := range weights {
		fmt.Fprintf(&text, "{%q, %.2f},\n", x.name, w[i+1])
		worst = max(worst, math.Abs(w[i+1]-x.weight))
	}
	if worst > 0.006 {
		t.Errorf("weights.go differs by %.3f; it should say\n%s", worst, text.String())
	}
}

// recall is the share of the exploited that are in the first part by score, ties counted in part.
func recall(list []record, score func(Features) float64, part float64) (r, auc float64) {
	type scored struct {
		s   float64
		kev bool
	}
	var all []scored
	positives := 0.0
	for _, x := range list {
		f := x.Features
		if x.kev {
			f.Exploitation, positives = "none", positives+1
		}
		all = append(all, scored{score(f), x.kev})
	}
	slices.SortFunc(all, func(a, b scored) int { return int(math.Copysign(1, b.s-a.s)) * boolInt(a.s != b.s) })
	cut := part * float64(len(all))
	caught, ranks := 0.0, 0.0
	for i := 0; i < len(all); {
		j, k := i, 0.0
		for ; j < len(all) && all[j].s == all[i].s; j++ {
			if all[j].kev {
				k++
			}
		}
		caught += k * min(1, max(0, (cut-float64(i))/float64(j-i)))
		ranks += k * (float64(i+j) / 2) // mean rank from the top
		i = j
	}
	n := float64(len(all))
	auc = 1 - (ranks-positives*positives/2)/(positives*(n-positives))
	return caught / positives, auc
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestCrossValidation holds out what the weights never saw: each fifth of all CVEs, and everything published after a
// day. What is exploited there has its exploitation hidden ("none"), as before it was seen.
func TestCrossValidation(t *testing.T) {
	list := vulnrichment(t)
	model := func(w []float64) func(Features) float64 {
		return func(f Features) float64 {
			s := w[0]
			for i, v := range f.values() {
				s += w[i+1] * v
			}
			if strings.EqualFold(f.Exploitation, "poc") {
				s += weightPoC
			}
			return s
		}
	}
	base, baseAUC := recall(list, func(f Features) float64 { return f.CVSS }, 0.05)
	t.Logf("CVSS alone: recall %.3f, AUC %.3f", base, baseAUC)
	mean := 0.0
	for k := range 5 {
		var train, test []record
		for i, r := range list {
			if (i*7919+i/5)%5 == k {
				test = append(test, r)
			} else {
				train = append(train, r)
			}
		}
		r, auc := recall(test, model(fit(train, ridge)), 0.05)
		mean += r / 5
		t.Logf("fold %d: recall %.3f, AUC %.3f", k, r, auc)
	}
	for _, day := range []string{"2023-10", "2024-03", "2024-06"} {
		var train, test []record
		for _, r := range list {
			if r.published < day {
				train = append(train, r)
			} else {
				test = append(test, r)
			}
		}
		r, auc := recall(test, model(fit(train, ridge)), 0.05)
		t.Logf("published before %s for those after: recall %.3f, AUC %.3f", day, r, auc)
	}
	t.Logf("mean recall of the folds %.3f", mean)
	// All that was exploited is called "none" here, which a weight on proofs of concept can only make worse.
	if mean <= base {
		t.Errorf("recall %.3f is not above that of the CVSS score, %.3f", mean, base)
	}
}
