package eval

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/anomaly"
	"forefend.dev/forefend/runtime/seccomp"
)

// rowsPerHour: a row is a tenth of a second.
const rowsPerHour = 36_000

// quietRows is a minute: an alarm less than that after the last row above the threshold is part of the same alarm.
const quietRows = 600

// rowsResult is the JSON of `forefend eval rows`.
type rowsResult struct {
	Episodes  int                   `json:"episodes"`
	Caught    int                   `json:"caught"`
	Recall    float64               `json:"recall"`
	FalseRate float64               `json:"false_alarms_per_hour"`
	FalseRows float64               `json:"false_rows_per_hour"`
	Hours     float64               `json:"normal_hours"`
	Skipped   []string              `json:"skipped,omitempty"`
	Scenarios []rowsTally           `json:"scenarios"`
	Baselines map[string]rowsFigure `json:"baselines"`
}

type rowsFigure struct {
	Episodes  int     `json:"episodes"`
	Caught    int     `json:"caught"`
	FalseRate float64 `json:"false_alarms_per_hour"`
}

// rowsTally is what alarms added up to.
type rowsTally struct {
	Name     string  `json:"name,omitempty"`
	Episodes int     `json:"episodes"`
	Caught   int     `json:"caught"`
	False    int     `json:"false_alarms"`
	Rows     int     `json:"false_rows"`
	Hours    float64 `json:"normal_hours"`
}

func (t *rowsTally) add(o rowsTally) {
	t.Episodes, t.Caught, t.False, t.Rows, t.Hours = t.Episodes+o.Episodes, t.Caught+o.Caught, t.False+o.False, t.Rows+o.Rows, t.Hours+o.Hours
}

func newRowsCommand() *cobra.Command {
	var data string
	var watched bool
	var out format
	cmd := &cobra.Command{
		Use:   "rows --data DIR",
		Short: "Anomaly scores of system call counts (docker CVE form)",
		Long: "For each file CVE-*.txt or CVE-*.txt.gz in DIR: learns its captures named train…, then follows each of the\n" +
			"others as a new container. Lines are CAPTURE TAB ROW TAB LABEL TAB NAME:COUNT…, a row is a tenth of a second.\n" +
			"An episode is an unbroken run of rows with label 1; it is caught when an alarm begins or goes on in it. An\n" +
			"alarm begins with a row above the engine's own threshold and goes on until a minute without one has passed; it is\n" +
			"false when none of its rows is in an episode and it did not begin in one.\n" +
			"Files whose training captures hold no call are skipped: there is no model of them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := evaluateRows(data, watched)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &data, "data", "directory of recorded rows")
	out.flags(cmd)
	cmd.Flags().BoolVar(&watched, "watched", false, "see only the calls that a container's first run watches, as the shim does")
	return cmd
}

func evaluateRows(dir string, watched bool) (rowsResult, error) {
	files, err := filepath.Glob(filepath.Join(dir, "CVE-*.txt*"))
	if err != nil || len(files) == 0 {
		return rowsResult{}, errors.Join(fmt.Errorf("%s holds no CVE-*.txt or CVE-*.txt.gz", dir), err)
	}
	slices.Sort(files)
	var r rowsResult
	var all, names rowsTally
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".txt")
		captures, err := readCaptures(file)
		if err != nil {
			return rowsResult{}, err
		}
		if watched {
			onlyWatched(captures)
		}
		train, test := split(captures)
		model := anomaly.NewMix()
		for _, c := range train {
			model.Learn(c.rows)
		}
		if model.Empty() {
			r.Skipped = append(r.Skipped, name)
			continue
		}
		tally, base := rowsTally{Name: name}, newFreshNames(train)
		for _, c := range test {
			stream := model.Stream()
			tally.add(follow(c, func(row anomaly.Row) bool { score, _ := stream.Add(row); return score > 1 }))
			names.add(follow(c, base.alarm))
		}
		r.Scenarios = append(r.Scenarios, tally)
		all.add(tally)
	}
	r.Episodes, r.Caught, r.Hours = all.Episodes, all.Caught, all.Hours
	r.Recall, r.FalseRate, r.FalseRows = ratio(float64(all.Caught), float64(all.Episodes)), ratio(float64(all.False), all.Hours), ratio(float64(all.Rows), all.Hours)
	r.Baselines = map[string]rowsFigure{
		"new-names": {names.Episodes, names.Caught, ratio(float64(names.False), names.Hours)},
	}
	return r, nil
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// follow replays a capture and counts.
func follow(c capture, alarm func(anomaly.Row) bool) rowsTally {
	var t rowsTally
	inEpisode, caught := false, false
	last := -quietRows - 1 // row of the last alarm
	ongoing, excused := false, false
	finish := func() {
		if ongoing && !excused {
			t.False++
		}
		ongoing, excused = false, false
	}
	for i, row := range c.rows {
		if c.labels[i] && !inEpisode {
			t.Episodes++
			caught = false
		}
		inEpisode = c.labels[i]
		if !inEpisode {
			t.Hours += 1.0 / rowsPerHour
		}
		if i-last > quietRows {
			finish()
		}
		if !alarm(row) {
			continue
		}
		last, ongoing = i, true
		switch {
		case inEpisode:
			excused = true
			if !caught {
				caught = true
				t.Caught++
			}
		case !excused:
			t.Rows++
		}
	}
	finish()
	return t
}

// onlyWatched removes the calls that the kernel allows by itself from a container's first run on.
func onlyWatched(captures []capture) {
	for _, c := range captures {
		for _, row := range c.rows {
			for name := range row {
				if seccomp.Classify(name) == seccomp.ClassHot {
					delete(row, name)
				}
			}
		}
	}
}

// freshNames is a baseline: an alarm for every call that training never had.
type freshNames map[string]bool

func newFreshNames(train []capture) freshNames {
	known := make(freshNames)
	for _, c := range train {
		for _, row := range c.rows {
			for name := range row {
				known[name] = true
			}
		}
	}
	return known
}

func (known freshNames) alarm(row anomaly.Row) bool {
	for name := range row {
		if !known[name] {
			return true
		}
	}
	return false
}

func (r rowsResult) text(out io.Writer) error {
	var err error
	line := func(t rowsTally) {
		if err == nil {
			_, err = fmt.Fprintf(out, "%-18s %2d of %2d caught  %2d false alarms in %.2f h\n", t.Name, t.Caught, t.Episodes, t.False, t.Hours)
		}
	}
	for _, t := range r.Scenarios {
		line(t)
	}
	line(rowsTally{Name: "all", Episodes: r.Episodes, Caught: r.Caught, False: int(r.FalseRate*r.Hours + 0.5), Hours: r.Hours})
	for name, b := range r.Baselines {
		line(rowsTally{Name: name, Episodes: b.Episodes, Caught: b.Caught, False: int(b.FalseRate*r.Hours + 0.5), Hours: r.Hours})
	}
	return err
}
