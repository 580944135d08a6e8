package eval

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/forecast"
)

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
		at                     asked
		out                    format
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
			coverages, err := at.coverages()
			if err != nil {
				return err
			}
			r, err := judgeUsage(f, resource, data, coverages)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &family, "family", "bitbrains, pods, gcd or planetlab")
	needed(cmd, &data, "data", "folder with the recorded series")
	cmd.Flags().StringVar(&resource, "resource", "memory", "memory or cpu")
	at.flags(cmd, 0.99, "windows that should stay under their limit")
	out.flags(cmd)
	return cmd
}

func judgeUsage(f usageFamily, resource, dir string, coverages []float64) (usageResult, error) {
	r := usageResult{Family: f.name, Baselines: make(map[string][]usageScore)}
	all, err := f.read(dir, resource)
	if err != nil {
		return r, fmt.Errorf("read %s: %w", f.name, err)
	}
	events := usageEvents(all)
	for _, c := range coverages {
		model := forecast.New(forecast.Config{Coverage: c, Window: f.window})
		windows := playUsage(all, events, f.window, func(s usageSeries) usageMethod {
			return ours{model.Track(resource, s.ceiling)}
		})
		r.Windows = len(windows)
		r.Points = append(r.Points, scoreUsage(c, windows))
	}
	for name, method := range map[string]func(time.Duration) usageMethod{"max_past_15": newMaxPast, "vpa_p90_15": newVPA} {
		windows := playUsage(all, events, f.window, func(usageSeries) usageMethod { return method(f.window) })
		for _, c := range coverages {
			r.Baselines[name] = append(r.Baselines[name], scoreUsage(c, windows))
		}
	}
	return r, nil
}

func (r usageResult) text(w io.Writer) error {
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
