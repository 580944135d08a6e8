package eval

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// nabFile is one labelled series.
type nabFile struct {
	name    string
	times   []string
	values  []float64
	windows []nabWindow // in order, without overlap
	scores  []float64   // of the detector
}

// nabWindow is the steps from first to last in which an anomaly is to be found.
type nabWindow struct {
	name        string
	first, last int
}

// maxNABSteps bounds one series.
const maxNABSteps = 10_000_000

// readNAB reads every series below dir. Windows of series that are not there, and series without windows, are fine.
func readNAB(dir string) ([]*nabFile, error) {
	var windows map[string][][]string
	body, err := os.ReadFile(filepath.Join(dir, "combined_windows.json"))
	if err == nil {
		err = json.Unmarshal(body, &windows)
	}
	if err != nil {
		return nil, fmt.Errorf("labelled windows of NAB: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*", "*.csv*"))
	if err != nil || len(names) == 0 {
		return nil, errors.Join(fmt.Errorf("%s holds no */*.csv", dir), err)
	}
	slices.Sort(names)
	var files []*nabFile
	for _, name := range names {
		in, err := openData(name)
		if err != nil {
			return nil, err
		}
		f, err := parseSeries(in)
		if err := errors.Join(err, in.Close()); err != nil {
			return nil, fmt.Errorf("series %s: %w", name, err)
		}
		f.name = filepath.Base(filepath.Dir(name)) + "/" + strings.TrimSuffix(filepath.Base(name), ".gz")
		f.label(windows[f.name])
		files = append(files, f)
	}
	return files, nil
}

// parseSeries reads lines of timestamp,value; lines whose value is no number, as the first, are left out.
func parseSeries(in io.Reader) (*nabFile, error) {
	f := &nabFile{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		time, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), ",")
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || err != nil {
			continue
		}
		if len(f.values) >= maxNABSteps {
			return nil, fmt.Errorf("more than %d steps", maxNABSteps)
		}
		f.times, f.values = append(f.times, secondsOf(time)), append(f.values, v)
	}
	return f, lines.Err()
}

// secondsOf cuts the fraction of a second, which labels have and series may not.
func secondsOf(time string) string {
	time, _, _ = strings.Cut(strings.TrimSpace(time), ".")
	return time
}

// label finds the windows' steps. A border that is no step of the series moves inwards to the next one.
func (f *nabFile) label(windows [][]string) {
	for _, w := range windows {
		if len(w) != 2 {
			continue
		}
		from, to := secondsOf(w[0]), secondsOf(w[1])
		first, last := -1, -1
		for i, t := range f.times {
			if t >= from && t <= to { // the form orders as time does
				if first < 0 {
					first = i
				}
				last = i
			}
		}
		if first >= 0 {
			f.windows = append(f.windows, nabWindow{from, first, last})
		}
	}
	slices.SortFunc(f.windows, func(a, b nabWindow) int { return cmp.Compare(a.first, b.first) })
	apart := f.windows[:0]
	for _, w := range f.windows {
		if n := len(apart); n == 0 || w.first > apart[n-1].last {
			apart = append(apart, w)
		}
	}
	f.windows = apart
}
