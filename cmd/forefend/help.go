package main

import (
	"strings"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
)

// fitHelp breaks the descriptions of cmd and all commands below it into lines that fit.
func fitHelp(cmd *cobra.Command) {
	cmd.Long = fit(cmd.Long)
	for _, sub := range cmd.Commands() {
		fitHelp(sub)
	}
}

// fit wraps text paragraph by paragraph. Lines that begin with a space are examples and tables, and stay.
func fit(text string) string {
	var lines, paragraph []string
	end := func() {
		if len(paragraph) > 0 {
			lines = append(lines, output.Wrap(strings.Join(paragraph, " "), output.Width)...)
			paragraph = nil
		}
	}
	for _, line := range strings.Split(text, "\n") {
		if line != "" && line[0] != ' ' {
			paragraph = append(paragraph, line)
			continue
		}
		end()
		lines = append(lines, line)
	}
	end()
	return strings.Join(lines, "\n")
}
