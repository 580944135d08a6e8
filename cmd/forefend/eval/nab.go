package eval

import (
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/anomaly"
)

// nabResult is the JSON of `forefend eval nab`.
type nabResult struct {
	Standard  float64            `json:"standard"`
	Optimised float64            `json:"standard_optimised"` // with the one threshold that NAB's optimiser would choose
	Files     int                `json:"files"`
	Windows   int                `json:"windows"`
	Steps     int                `json:"steps"`
	False     int                `json:"false_alarms"`
	PerSteps  float64            `json:"false_alarms_per_1000_steps"`
	Baselines map[string]float64 `json:"baselines"`
	Scores    []nabFileScore     `json:"scores"`
}

type nabFileScore struct {
	File    string  `json:"file"`
	Windows int     `json:"windows"`
	Alarms  int     `json:"alarms"`
	Score   float64 `json:"score"` // raw, null detector: -windows, perfect: +windows
}

func newNABCommand() *cobra.Command {
	var data string
	var out format
	cmd := &cobra.Command{
		Use:   "nab --data DIR",
		Short: "Anomaly scores of usage series: the score of the Numenta Anomaly Benchmark",
		Long: "Runs each DIR/*/*.csv (timestamp,value), plain or gzip, through the detector of usage series, with the threshold\n" +
			"that the daemon uses, and scores its alarms as NAB 1.1 does with the standard profile: 0 is a detector that finds\n" +
			"nothing, 100 one that finds every window of DIR/combined_windows.json at once and nothing else.\n" +
			"standard_optimised is the score with the one threshold that suits these files best, as NAB's published ones are.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := evaluateNAB(data)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &data, "data", "directory of series and combined_windows.json")
	out.flags(cmd)
	return cmd
}

func evaluateNAB(dir string) (nabResult, error) {
	files, err := readNAB(dir)
	if err != nil {
		return nabResult{}, err
	}
	r := nabResult{Files: len(files), Baselines: map[string]float64{}}
	var ours, sigma []nabPoint
	for _, f := range files {
		r.Windows += len(f.windows)
		detector := anomaly.NewSeries()
		scores := make([]float64, len(f.values))
		alarms := make([]float64, len(f.values))
		for i, v := range f.values {
			score, alarm := detector.Add(v)
			scores[i] = score
			if alarm {
				alarms[i] = 1
			}
		}
		points := f.points(alarms)
		ours = append(ours, points...)
		sigma = append(sigma, f.points(anomaly.SeriesAlarms(threeSigma(f.values), 1))...)
		file := nabFileScore{File: f.name, Windows: len(f.windows), Score: nabTotal(points, 1)}
		for _, p := range points {
			r.Steps++
			if p.score >= 1 {
				file.Alarms++
				if p.window == "" {
					r.False++
				}
			}
		}
		r.Scores = append(r.Scores, file)
		f.scores = scores
	}
	if r.Windows == 0 {
		return nabResult{}, fmt.Errorf("combined_windows.json in %s labels none of its %d series", dir, r.Files)
	}
	r.PerSteps = ratio(1000*float64(r.False), float64(r.Steps))
	r.Standard = nabNormal(ours, 1, r.Windows)
	r.Optimised = bestNAB(files, r.Windows)
	r.Baselines["three-sigma"] = nabNormal(sigma, 1, r.Windows)
	return r, nil
}

// bestNAB scores the detector with each of a range of thresholds, alarms following each other at the detector's own
// distance, and returns the best score.
func bestNAB(files []*nabFile, windows int) float64 {
	best := math.Inf(-1)
	for threshold := 2.0; threshold <= 10; threshold += 0.25 {
		var points []nabPoint
		for _, f := range files {
			points = append(points, f.points(anomaly.SeriesAlarms(f.scores, threshold))...)
		}
		best = max(best, nabNormal(points, 1, windows))
	}
	return best
}

// threeSigma is the simple baseline: an alarm where a value is three standard deviations from the mean of all before, at
// the same distance from each other as ours.
func threeSigma(values []float64) []float64 {
	out := make([]float64, len(values))
	var n, mean, square float64
	for i, v := range values {
		if sd := math.Sqrt(square / max(n-1, 1)); n > 30 && math.Abs(v-mean) > 3*sd {
			out[i] = 1
		}
		n++
		d := v - mean
		mean += d / n
		square += d * (v - mean)
	}
	return out
}

func (r nabResult) text(out io.Writer) error {
	var err error
	for _, s := range r.Scores {
		if err == nil {
			_, err = fmt.Fprintf(out, "%-60s %6.2f of %d windows, %d alarms\n", s.File, s.Score, s.Windows, s.Alarms)
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(out, "standard %.2f  with the best threshold %.2f  three-sigma %.2f\n", r.Standard, r.Optimised, r.Baselines["three-sigma"])
	}
	return err
}
