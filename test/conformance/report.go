package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// outcome of one test. Those of a suite that has other words are translated.
type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	skipped outcome = "skipped"
	absent  outcome = "not run"
)

// result is how one test ended.
type result struct {
	outcome outcome
	why     string // the first lines of a failure
}

// results of one suite under one runtime, by the full name of a test.
type results map[string]result

func (r results) count(o outcome) int {
	n := 0
	for _, one := range r {
		if one.outcome == o {
			n++
		}
	}
	return n
}

// readGinkgo reads the JSON report that critest writes.
func readGinkgo(file string) (results, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var reports []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeType            string
			LeafNodeText            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(body, &reports); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	all := make(results)
	for _, report := range reports {
		for _, s := range report.SpecReports {
			if s.LeafNodeType != "It" {
				continue
			}
			name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
			r := result{outcome: failed, why: s.Failure.Message}
			switch s.State {
			case "passed":
				r.outcome = passed
			case "skipped", "pending":
				r.outcome = skipped
			}
			all[name] = r
		}
	}
	return all, nil
}

// readGoTest reads the output of a Go test binary that ran with -test.v through test2json.
func readGoTest(file string) (results, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := make(results)
	said := make(map[string]string)
	for d := json.NewDecoder(f); ; {
		var line struct{ Action, Test, Output string }
		err := d.Decode(&line)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if line.Test == "" {
			continue
		}
		switch line.Action {
		case "output":
			said[line.Test] += line.Output
		case "pass":
			all[line.Test] = result{outcome: passed}
		case "skip":
			all[line.Test] = result{outcome: skipped}
		case "fail":
			all[line.Test] = result{outcome: failed, why: said[line.Test]}
		}
	}
}

// difference is a test that ended differently.
type difference struct {
	name            string
	stock, forefend result
}

// differences are the tests that did not end the same. A test that failed under stock and passes under Forefend is
// one too: somebody should know why.
func differences(stock, forefend results) []difference {
	var all []difference
	for name := range stock {
		if _, ok := forefend[name]; !ok {
			forefend[name] = result{outcome: absent}
		}
	}
	for name, f := range forefend {
		s, ok := stock[name]
		if !ok {
			s = result{outcome: absent}
		}
		if s.outcome != f.outcome {
			all = append(all, difference{name, s, f})
		}
	}
	slices.SortFunc(all, func(a, b difference) int { return cmp.Compare(a.name, b.name) })
	return all
}

// names are those of the tests that differ.
func names(found []difference) []string {
	all := make([]string, 0, len(found))
	for _, d := range found {
		all = append(all, d.name)
	}
	return all
}

// both keeps of the newer differences those that an earlier run had too.
func both(earlier, newer []difference) []difference {
	var kept []difference
	for _, d := range newer {
		if slices.Contains(names(earlier), d.name) {
			kept = append(kept, d)
		}
	}
	return kept
}

// firstLines shortens a failure to what tells it from others.
func firstLines(s string, n int) string {
	lines := slices.Collect(strings.Lines(strings.TrimSpace(s)))
	if len(lines) > n {
		lines = append(lines[:n], "…")
	}
	return strings.TrimRight(strings.Join(lines, ""), "\n")
}
