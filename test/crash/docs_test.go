package crash

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the table of docs/crashes.md")

const (
	docsPath   = "../../docs/crashes.md"
	tableBegin = "<!-- cells: go test ./test/crash -run TestTable -update -->\n"
	tableEnd   = "<!-- end of cells -->\n"
)

// TestTable compares the table of docs/crashes.md with the steps and outcomes that TestMatrix asserts.
func TestTable(t *testing.T) {
	text, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(text), tableBegin)
	had, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		t.Fatalf("%s has no table of cells", docsPath)
	}
	want := table()
	if had == want {
		return
	}
	if !*update {
		t.Fatalf("the table of %s is not that of the test; run with -update", docsPath)
	}
	if err := os.WriteFile(docsPath, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table() string {
	var b strings.Builder
	b.WriteString("| in | step | shim | daemon | containerd | runc |\n|---|---|---|---|---|---|\n")
	for _, s := range steps {
		in := strings.TrimPrefix(string(s.in), "the ")
		if s.has(runc) {
			in = "runc"
		}
		fmt.Fprintf(&b, "| %s | %s |", in, strings.TrimPrefix(s.name, "runc "))
		for _, v := range victims {
			fmt.Fprintf(&b, " %s |", s.outcome(v))
		}
		b.WriteString("\n")
	}
	return b.String()
}
