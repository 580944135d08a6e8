package eval

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/risk"
)

// topShare is the part of all vulnerabilities that a site can look at.
const topShare = 0.05

// riskFigure is how well one score finds what became exploited. NaN cannot be written as JSON: without exploited or
// without other vulnerabilities there is no result.
type riskFigure struct {
	AUC    float64 `json:"auc"`
	Recall float64 `json:"recall_at_5pct"`
}

// riskResult is the JSON of `forefend eval risk`.
type riskResult struct {
	riskFigure
	Vulnerabilities int `json:"vulnerabilities"` // scored
	Exploited       int `json:"exploited"`       // of those, by the labels
	Known           int `json:"known"`           // left out: known to be exploited when the features were taken
	Unmatched       int `json:"unmatched"`       // labels of vulnerabilities that are not scored

	Baselines map[string]riskFigure `json:"baselines"`
}

func newRiskCommand() *cobra.Command {
	var data, labels string
	var out format
	cmd := &cobra.Command{
		Use:   "risk --data FILE --labels FILE",
		Short: "Which vulnerabilities become exploited",
		Long: "Scores the vulnerabilities of FILE, a CSV with the columns cve, cvss, vector, exploitation, automatable,\n" +
			"technical_impact, cwe and one whose name begins with in_kev, and looks where those are that the labels name.\n" +
			"Vulnerabilities that were known to be exploited when the features were taken (in_kev… = 1) are left out: nothing\n" +
			"is predicted there. Labels are a list of CVE ids, a CSV with a column cve, cve_id or cveID and, if it has one, a\n" +
			"column label, exploited or kev of 0 and 1, or CISA's catalogue as CSV or JSON. Equal scores share their place.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := evaluateRisk(data, labels)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &data, "data", "features, CSV, gzipped or not")
	needed(cmd, &labels, "labels", "what became exploited")
	out.flags(cmd)
	return cmd
}

func (r *riskResult) text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d vulnerabilities, %d of them exploited later; %d known before are left out\n", r.Vulnerabilities, r.Exploited, r.Known)
	line := func(name string, f riskFigure) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%-20s AUC %.3f, %.3f in the top 5 %%\n", name, f.AUC, f.Recall)
		}
	}
	line("forefend", r.riskFigure)
	for _, name := range slices.Sorted(maps.Keys(r.Baselines)) {
		line(name, r.Baselines[name])
	}
	return err
}

// riskScores are what is compared: ours, which is what the scanner calls, and the usual ways to rank.
var riskScores = map[string]func(risk.Features) float64{
	"forefend": risk.Exploitation,
	"cvss":     func(f risk.Features) float64 { return f.CVSS },
	"ssvc exploitation": func(f risk.Features) float64 {
		return float64(slices.Index([]string{"none", "poc", "active"}, strings.ToLower(f.Exploitation)))
	},
	"ssvc exploitation, then cvss": func(f risk.Features) float64 {
		return 100*float64(slices.Index([]string{"none", "poc", "active"}, strings.ToLower(f.Exploitation))) + f.CVSS
	},
}

func evaluateRisk(data, labels string) (*riskResult, error) {
	list, err := readFeatures(data)
	if err != nil {
		return nil, err
	}
	exploited, err := readLabels(labels)
	if err != nil {
		return nil, err
	}
	r := &riskResult{Baselines: map[string]riskFigure{}}
	positive, negative := map[string][]float64{}, map[string][]float64{}
	for _, v := range list {
		if v.Known {
			r.Known++
			continue
		}
		r.Vulnerabilities++
		into := negative
		if exploited[v.CVE] {
			r.Exploited++
			into = positive
		}
		for name, score := range riskScores {
			into[name] = append(into[name], score(v.Features))
		}
	}
	r.Unmatched = len(exploited) - r.Exploited
	if r.Exploited == 0 || r.Exploited == r.Vulnerabilities {
		return nil, fmt.Errorf("%d of %d vulnerabilities of %s are exploited by the labels in %s: there is nothing to tell apart",
			r.Exploited, r.Vulnerabilities, data, labels)
	}
	for name := range riskScores {
		f := riskFigure{AUC: areaUnderROC(negative[name], positive[name]), Recall: recallAt(negative[name], positive[name], topShare)}
		if name == "forefend" {
			r.riskFigure = f
		} else {
			r.Baselines[name] = f
		}
	}
	return r, nil
}

// recallAt is the share of positives among the given part of all, highest scores first. Where equal scores reach over
// the end of that part, each of them is in it with the same probability.
func recallAt(negative, positive []float64, part float64) float64 {
	if len(positive) == 0 {
		return math.NaN()
	}
	type scored struct {
		score float64
		hit   bool
	}
	var all []scored
	for _, s := range negative {
		all = append(all, scored{s, false})
	}
	for _, s := range positive {
		all = append(all, scored{s, true})
	}
	slices.SortFunc(all, func(a, b scored) int {
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return 0
	})
	room, caught := part*float64(len(all)), 0.0
	for i := 0; i < len(all) && room > 0; {
		j, hits := i, 0.0
		for ; j < len(all) && all[j].score == all[i].score; j++ {
			if all[j].hit {
				hits++
			}
		}
		n := float64(j - i)
		caught += hits * min(1, room/n)
		room -= n
		i = j
	}
	return caught / float64(len(positive))
}
