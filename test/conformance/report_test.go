package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// A test counts as different however its end differs, and only when it does so again.
func TestDifferences(t *testing.T) {
	stock := results{"same": {outcome: passed}, "broken": {outcome: failed}, "worse": {outcome: passed}, "better": {outcome: failed}, "gone": {outcome: passed}}
	forefend := results{"same": {outcome: passed}, "broken": {outcome: failed}, "worse": {outcome: failed}, "better": {outcome: passed}, "new": {outcome: skipped}}
	found := differences(stock, forefend)
	if got, want := names(found), []string{"better", "gone", "new", "worse"}; !slices.Equal(got, want) {
		t.Errorf("different: %v, want %v", got, want)
	}
	newer := []difference{{name: "worse"}, {name: "only now"}}
	if got := names(both(found, newer)); !slices.Equal(got, []string{"worse"}) {
		t.Errorf("different again: %v", got)
	}
}

func TestReports(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "report")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	got, err := readGinkgo(write(`[{"SpecReports": [
		{"LeafNodeType": "BeforeSuite", "State": "passed"},
		{"ContainerHierarchyTexts": ["a", "b"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "passed"},
		{"LeafNodeType": "It", "LeafNodeText": "hangs", "State": "timedout", "Failure": {"Message": "why"}},
		{"LeafNodeType": "It", "LeafNodeText": "not here", "State": "skipped"}]}]`))
	if err != nil || len(got) != 3 || got["a b works"].outcome != passed || got["hangs"] != (result{failed, "why"}) || got["not here"].outcome != skipped {
		t.Errorf("critest: %v %v", got, err)
	}
	got, err = readGoTest(write(`{"Action":"output","Test":"TestA","Output":"reason\n"}
		{"Action":"fail","Test":"TestA"}
		{"Action":"pass","Test":"TestB/one"}
		{"Action":"output","Output":"PASS\n"}`))
	if err != nil || len(got) != 2 || got["TestA"] != (result{failed, "reason\n"}) || got["TestB/one"].outcome != passed {
		t.Errorf("go test: %v %v", got, err)
	}
}

// What is run again is exactly what differed.
func TestOnly(t *testing.T) {
	re := regexp.MustCompile(anyOf([]string{"runtime should work [Conformance]", "b"}))
	for name, want := range map[string]bool{"runtime should work [Conformance]": true, "runtime should work C": false, "b c": false} {
		if re.MatchString(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	if got := topLevel([]string{"TestB/one", "TestA", "TestB/two"}); got != "^TestA$|^TestB$" {
		t.Errorf("got %s", got)
	}
}
