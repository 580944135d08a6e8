package eval

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/anomaly"
)

// tracesResult is the JSON of `forefend eval traces`.
type tracesResult struct {
	AUC       float64                `json:"auc"`
	FPR       float64                `json:"fpr_at_tpr90"`
	Baselines map[string]traceFigure `json:"baselines"`
}

type traceFigure struct {
	AUC float64 `json:"auc"`
	FPR float64 `json:"fpr_at_tpr90"`
}

func newTracesCommand() *cobra.Command {
	var train, normal, attack string
	var out format
	cmd := &cobra.Command{
		Use:   "traces --train FILE --normal FILE --attack FILE",
		Short: "Anomaly scores of system call sequences (ADFA-LD form)",
		Long: "Learns the traces of --train, scores each trace of --normal and --attack, and tells how well the score keeps\n" +
			"them apart: the area under the ROC curve, and the share of normal traces at or above the score that 90 % of the\n" +
			"attacks reach. A file has one trace a line, NAME TAB NUMBERS with spaces between; plain or gzip.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := evaluateTraces(train, normal, attack)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &train, "train", "normal traces to learn from")
	needed(cmd, &normal, "normal", "normal traces to score")
	needed(cmd, &attack, "attack", "traces of attacks to score")
	out.flags(cmd)
	return cmd
}

func evaluateTraces(train, normal, attack string) (tracesResult, error) {
	var sets [3][][]string
	for i, file := range []string{train, normal, attack} {
		traces, err := readTraces(file)
		if err != nil {
			return tracesResult{}, err
		}
		if len(traces) == 0 {
			return tracesResult{}, fmt.Errorf("%s holds no trace; expected lines of NAME TAB NUMBERS", file)
		}
		sets[i] = traces
	}
	model := anomaly.NewSequence()
	for _, t := range sets[0] {
		model.Learn(t)
	}
	base := newStide(stideWindow)
	for _, t := range sets[0] {
		base.learn(t)
	}
	ours := compareTraces(model.Score, sets[1], sets[2])
	return tracesResult{
		AUC: ours.AUC, FPR: ours.FPR,
		Baselines: map[string]traceFigure{"stide": compareTraces(base.score, sets[1], sets[2])},
	}, nil
}

// compareTraces scores both sets and tells how well the scores keep them apart.
func compareTraces(score func([]string) float64, normal, attack [][]string) traceFigure {
	scores := func(set [][]string) []float64 {
		out := make([]float64, len(set))
		for i, t := range set {
			out[i] = score(t)
		}
		return out
	}
	n, a := scores(normal), scores(attack)
	return traceFigure{AUC: areaUnderROC(n, a), FPR: falseShareAt(n, a, 0.9)}
}

// readTraces reads a file of traces, gzipped or not.
func readTraces(file string) ([][]string, error) {
	in, err := openData(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	traces, err := parseTraces(in)
	if err != nil {
		return nil, fmt.Errorf("traces in %s: %w", file, err)
	}
	return traces, nil
}

// parseTraces reads lines of NAME TAB CALL CALL …; empty traces and lines are left out.
func parseTraces(in io.Reader) ([][]string, error) {
	var traces [][]string
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 1<<16), maxDataLine)
	for lines.Scan() {
		_, calls, ok := strings.Cut(lines.Text(), "\t")
		if !ok {
			continue
		}
		if trace := strings.Fields(calls); len(trace) > 0 {
			traces = append(traces, trace)
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, fmt.Errorf("a line is longer than %d bytes: %w", maxDataLine, err)
		}
		return nil, err
	}
	return traces, nil
}

func (r tracesResult) text(out io.Writer) error {
	_, err := fmt.Fprintf(out, "%-10s AUC %.3f  false positives at 90%% detection %.3f\n", "forefend", r.AUC, r.FPR)
	for name, b := range r.Baselines {
		if err == nil {
			_, err = fmt.Fprintf(out, "%-10s AUC %.3f  false positives at 90%% detection %.3f\n", name, b.AUC, b.FPR)
		}
	}
	return err
}
