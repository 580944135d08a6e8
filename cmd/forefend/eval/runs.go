package eval

import (
	"fmt"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
)

// curve is the coverages that --curve asks for.
var curve = []float64{0.90, 0.95, 0.98, 0.99, 0.995, 0.999}

// runsPoint is how bounds of runs did at one coverage.
type runsPoint struct {
	Coverage   float64            `json:"coverage"`
	Runs       int                `json:"runs"`
	Violations float64            `json:"violations"` // share of runs above their first limit
	Waste      float64            `json:"waste_gbh"`  // all tries, GB·h of 10⁹ bytes
	ByN        map[string]runsByN `json:"by_n"`       // by the number of runs of the workload that had ended
}

// runsByN is one row of a runsPoint.
type runsByN struct {
	Runs       int     `json:"runs"`
	Violations float64 `json:"violations"`
	Ratio      float64 `json:"median_ratio"` // of first limit / peak
	Waste      float64 `json:"waste_gbh"`
}

// runsResult is what `forefend eval runs` prints.
type runsResult struct {
	Points    []runsPoint            `json:"points"`
	Baselines map[string][]runsPoint `json:"baselines"`
}

func runsCommand() *cobra.Command {
	var data, prior string
	var coverage float64
	var withCurve, asJSON bool
	cmd := &cobra.Command{
		Use:   "runs --data FILE",
		Short: "The bound of a run's peak memory, on recorded container runs",
		Long: "Replays finished runs (CSV, plain or gzip, see docs/predictor/runs.md) in the order of their starts through the history\n" +
			"that the daemon keeps. What is predicted at a start comes from the runs that had ended by then. A run above its limit is\n" +
			"tried again at twice the limit, then at the user's request; waste counts every try.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(coverage > 0 && coverage < 1) {
				return fmt.Errorf("--coverage %g: not between 0 and 1", coverage)
			}
			coverages := []float64{coverage}
			if withCurve {
				coverages = curve
			}
			result, err := evaluateRuns(cmd.Context(), data, prior, coverages)
			if err != nil {
				return err
			}
			if asJSON {
				return output.JSON(cmd.OutOrStdout(), result)
			}
			return printRuns(cmd.OutOrStdout(), result)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the runs to replay, a CSV `FILE`")
	cmd.Flags().StringVar(&prior, "prior", "", "other runs, a CSV `FILE`, to learn priors from first")
	cmd.Flags().Float64Var(&coverage, "coverage", 0.98, "share of runs to stay under their bound")
	cmd.Flags().BoolVar(&withCurve, "curve", false, "repeat for the coverages .90 .95 .98 .99 .995 .999")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("data")
	return cmd
}
