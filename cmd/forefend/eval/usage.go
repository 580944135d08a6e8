package eval

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/forecast"
)

// usageCurve is what --curve asks for.
var usageCurve = []float64{.90, .95, .98, .99, .995, .999}

// usageResult is the JSON of `forefend eval usage`.
type usageResult struct {
	Family    string                  `json:"family"`
	Windows   int                     `json:"windows"`
	Points    []usageScore            `json:"points"`
	Baselines map[string][]usageScore `json:"baselines"`
}

func usageCommand() *cobra.Command {
	var (
		family, resource, data string
		coverage               float64
		curve, asJSON          bool
	)
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Judge the bounds of running containers' use on recorded series",
		Long: `Replay recorded usage series side by side, as one node would see them, and give each window a
limit from the past only.

A violation is a window whose true peak exceeds its limit; violations are a share of all windows
(0.01 is 1 %). The footprint is the sum of limits / the sum of true peaks. The first window of a
series is never scored.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := usageFamilyNamed(family, resource)
			if err != nil {
				return err
			}
			asked := []float64{coverage}
			if curve {
				asked = usageCurve
			}
			result, err := judgeUsage(f, resource, data, asked)
			if err != nil {
				return err
			}
			return printUsage(cmd.OutOrStdout(), result, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&family, "family", "", "bitbrains, pods, gcd or planetlab")
	flags.StringVar(&resource, "resource", "memory", "memory or cpu")
	flags.StringVar(&data, "data", "", "folder with the recorded series")
	flags.Float64Var(&coverage, "coverage", 0.99, "share of windows that should stay under their limit")
	flags.BoolVar(&curve, "curve", false, "repeat for coverage .90 .95 .98 .99 .995 .999")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("family")
	_ = cmd.MarkFlagRequired("data")
	return cmd
}

func judgeUsage(f usageFamily, resource, dir string, asked []float64) (usageResult, error) {
	r := usageResult{Family: f.name, Baselines: make(map[string][]usageScore)}
	for _, c := range asked {
		if !(c > 0 && c < 1) {
			return r, fmt.Errorf("--coverage %v: a share between 0 and 1 is needed", c)
		}
	}
	all, err := f.read(dir, resource)
	if err != nil {
		return r, fmt.Errorf("read %s: %w", f.name, err)
	}
	events := usageEvents(all)
	for _, c := range asked {
		model := forecast.New(forecast.Config{Coverage: c, Window: f.window})
		windows := playUsage(all, events, f.window, func(s usageSeries) usageMethod {
			return ours{model.Track(resource, s.ceiling)}
		})
		r.Windows = len(windows)
		r.Points = append(r.Points, scoreUsage(c, windows))
	}
	for name, method := range map[string]func(time.Duration) usageMethod{"max_past_15": newMaxPast, "vpa_p90_15": newVPA} {
		windows := playUsage(all, events, f.window, func(usageSeries) usageMethod { return method(f.window) })
		for _, c := range asked {
			r.Baselines[name] = append(r.Baselines[name], scoreUsage(c, windows))
		}
	}
	return r, nil
}

func printUsage(w io.Writer, r usageResult, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	fmt.Fprintf(w, "%s: %d windows\n%-14s %9s %11s %10s\n", r.Family, r.Windows, "METHOD", "COVERAGE", "VIOLATIONS", "FOOTPRINT")
	row := func(name, asked string, s usageScore) {
		fmt.Fprintf(w, "%-14s %9s %10.2f%% %10.3f\n", name, asked, 100*s.Violations, s.Footprint)
	}
	for _, s := range r.Points {
		row("forefend", fmt.Sprintf("%.3f", s.Coverage), s)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Baselines)) {
		row(name, "-", r.Baselines[name][0])
	}
	return nil
}
