package eval

import "github.com/spf13/cobra"

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
	var at asked
	var out format
	cmd := &cobra.Command{
		Use:   "runs --data FILE",
		Short: "The bound of a run's peak memory, on recorded container runs",
		Long: "Replays finished runs (CSV, plain or gzip, see docs/predictor/runs.md) in the order of their starts through the history\n" +
			"that the daemon keeps. What is predicted at a start comes from the runs that had ended by then. A run above its limit is\n" +
			"tried again at twice the limit, then at the user's request; waste counts every try.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			coverages, err := at.coverages()
			if err != nil {
				return err
			}
			r, err := evaluateRuns(cmd.Context(), data, prior, coverages)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &data, "data", "the runs to replay, a CSV `FILE`")
	cmd.Flags().StringVar(&prior, "prior", "", "other runs, a CSV `FILE`, to learn priors from first")
	at.flags(cmd, 0.98, "runs to stay under their bound")
	out.flags(cmd)
	return cmd
}
