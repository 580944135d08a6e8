// Package eval is the judge of the models: `forefend eval` replays data through the code that the daemon runs and prints
// how well it did beside simple baselines. It has no model of its own.
package eval

import "github.com/spf13/cobra"

// Command returns `forefend eval` with a subcommand for each measure.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Measure the models on recorded data, beside simple baselines",
	}
	cmd.AddCommand(subcommands()...)
	return cmd
}
