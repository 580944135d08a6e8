package eval

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
)

// needed adds a flag that has to be given.
func needed(cmd *cobra.Command, to *string, name, usage string) {
	cmd.Flags().StringVar(to, name, "", usage)
	_ = cmd.MarkFlagRequired(name) // the line above made it
}

// asked is the coverages that bounds are judged at.
type asked struct {
	coverage float64
	curve    bool
}

// curve is the coverages that --curve asks for.
var curve = []float64{.90, .95, .98, .99, .995, .999}

// flags adds --coverage, with the share of what it is, and --curve.
func (a *asked) flags(cmd *cobra.Command, coverage float64, of string) {
	cmd.Flags().Float64Var(&a.coverage, "coverage", coverage, "share of "+of)
	cmd.Flags().BoolVar(&a.curve, "curve", false, "repeat for coverage .90 .95 .98 .99 .995 .999")
}

// coverages is what was asked for.
func (a asked) coverages() ([]float64, error) {
	if !(a.coverage > 0 && a.coverage < 1) {
		return nil, fmt.Errorf("--coverage %v: a share between 0 and 1 is needed", a.coverage)
	}
	if a.curve {
		return curve, nil
	}
	return []float64{a.coverage}, nil
}

// format is how a result is printed.
type format struct{ json bool }

// flags adds --json.
func (f *format) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

// print prints a result as JSON if that was asked for, else by text.
func (f format) print(w io.Writer, result any, text func(io.Writer) error) error {
	if f.json {
		return output.JSON(w, result)
	}
	return text(w)
}
