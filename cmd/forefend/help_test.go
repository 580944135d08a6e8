package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
)

// TestHelpFits asks every command for its help, hidden ones too: scripts show only some.
func TestHelpFits(t *testing.T) {
	var out bytes.Buffer
	asked := 0
	var ask func(*cobra.Command)
	ask = func(cmd *cobra.Command) {
		asked++
		out.Reset()
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := output.Columns(strings.TrimSuffix(line, "\n")); n > output.Width {
				t.Errorf("%s --help has %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		if cmd.Short == "" {
			t.Errorf("%s has no short description", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			ask(sub)
		}
	}
	ask(newRoot(&app{stdout: &out, stderr: &out}))
	if asked < 20 {
		t.Errorf("%d commands were asked", asked)
	}
}

func TestFitKeepsExamples(t *testing.T) {
	long := strings.Repeat("word ", 30)
	got := fit(long + "\nmore\n\n  as   it is\nend")
	want := strings.Repeat("word ", 19) + "word\n" + strings.Repeat("word ", 10) + "more\n\n  as   it is\nend"
	if got != want {
		t.Errorf("%q", got)
	}
}
