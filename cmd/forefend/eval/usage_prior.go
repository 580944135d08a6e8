package eval

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/forecast"
)

func usagePriorCommand() *cobra.Command {
	var data, out string
	var networks, passes int
	cmd := &cobra.Command{
		Use:   "usage-prior",
		Short: "Learn the usage forecaster's prior from recorded series",
		Long: `Learn from all families of recorded usage series in a folder, each family and resource weighing
the same, and write the networks that a forecaster begins with. The result holds no data of the
series.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			groups, err := usageExamples(data)
			if err != nil {
				return err
			}
			var nets [][]float32
			for i := range networks {
				nets = append(nets, forecast.Fit(groups, passes, uint64(i+1)))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d networks from %d groups of series\n", len(nets), len(groups))
			return os.WriteFile(out, forecast.EncodePrior(nets), 0o644)
		},
	}
	needed(cmd, &data, "data", "folder with the recorded series")
	needed(cmd, &out, "out", "file to write")
	flags := cmd.Flags()
	flags.IntVar(&networks, "networks", 6, "networks whose expectations are averaged")
	flags.IntVar(&passes, "passes", 25, "how often the average window is seen")
	return cmd
}

// usageExamples replays every family found in dir and gathers what a forecaster learns from.
func usageExamples(dir string) ([][]forecast.Example, error) {
	var groups [][]forecast.Example
	for _, f := range usageFamilies {
		for _, resource := range f.resources {
			all, err := f.read(dir, resource)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			var examples []forecast.Example
			random := rand.New(rand.NewPCG(uint64(len(groups)), 5))
			for round := range usageRounds {
				model := forecast.New(forecast.Config{Window: f.window})
				model.Observe(func(_ string, e forecast.Example) { examples = append(examples, e) })
				late := startLate(all, round > 0, random)
				playUsage(late, usageEvents(late), f.window, func(s usageSeries) usageMethod {
					return ours{model.Track(resource, s.ceiling)}
				})
			}
			groups = append(groups, examples)
		}
	}
	if len(groups) == 0 {
		return nil, fmt.Errorf("%s: no family of usage series found", dir)
	}
	return groups, nil
}

// usageRounds is how often each family is learned from, with other beginnings each time.
const usageRounds = 2

// startLate lets each series begin at a point of its first half, so that how young a container is does not tell what day
// it is.
func startLate(all []usageSeries, late bool, random *rand.Rand) []usageSeries {
	if !late {
		return all
	}
	later := slices.Clone(all)
	for i, s := range all {
		later[i].samples = s.samples[random.IntN(len(s.samples)/2+1):]
	}
	return later
}
