package eval

import "github.com/spf13/cobra"

// subcommands lists the measures, one file each.
func subcommands() []*cobra.Command {
	return []*cobra.Command{
		usageCommand(),
		usagePriorCommand(),
		limitCommand(),
		runsCommand(),
		newTracesCommand(),
		newRowsCommand(),
		newScanCommand(),
		newRiskCommand(),
		newRecommendCommand(),
		newNABCommand(),
	}
}
