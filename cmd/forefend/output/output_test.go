package output

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

func TestUnits(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Bytes(0), "-"}, {Bytes(-1), "-"}, {Bytes(512), "512B"}, {Bytes(1023), "1023B"}, {Bytes(1 << 20), "1M"},
		{Bytes(12<<20 + 300<<10), "12.3M"}, {Bytes(1<<30 - 1), "1G"}, {Bytes(100 << 20), "100M"}, {Bytes(math.MaxInt64), "8E"},
		{CPUs(0), "-"}, {CPUs(math.NaN()), "-"}, {CPUs(0.001), "<0.01"}, {CPUs(0.5), "0.5"}, {CPUs(2), "2"}, {CPUs(0.314), "0.31"}, {CPUs(64.4), "64"},
		{Count(0), "-"}, {Count(4096), "4096"},
		{Percent(0), "0 %"}, {Percent(0.0001), "<0.1 %"}, {Percent(0.012), "1.2 %"}, {Percent(0.5), "50 %"}, {Percent(0.99), "99 %"},
		{Percent(0.999), ">99 %"}, {Percent(1), "100 %"}, {Percent(math.NaN()), "-"},
		{Age(-time.Second), "0s"}, {Age(90 * time.Second), "90s"}, {Age(5 * time.Minute), "5m"}, {Age(47 * time.Hour), "47h"}, {Age(49 * time.Hour), "2d"},
		{Took(180 * time.Microsecond), "0.2 ms"}, {Took(50 * time.Millisecond), "50 ms"}, {Took(1400 * time.Millisecond), "1.4 s"},
		{Time(time.Time{}), "-"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func TestTruncateAndWrapKeepTheirWidth(t *testing.T) {
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{{"short", 10, "short"}, {"exactly", 7, "exactly"}, {"too long", 7, "too lo…"}, {"a bc", 3, "a…"}, {"界界界", 4, "界…"}, {"界界", 4, "界界"}} {
		if got := Truncate(c.s, c.n); got != c.want {
			t.Errorf("Truncate(%q, %d) = %q, want %q", c.s, c.n, got, c.want)
		}
	}
	got := strings.Join(Wrap("the quick  brown\tfox supercalifragilistic 界界界", 6), "|")
	if want := "the|quick|brown|fox|superc|alifra|gilist|ic|界界界"; got != want {
		t.Errorf("Wrap: %q, want %q", got, want)
	}
	if got := Wrap("", 5); len(got) != 1 || got[0] != "" {
		t.Errorf("Wrap of nothing: %q", got)
	}
}

func TestTableFitsWhateverItHolds(t *testing.T) {
	table := NewTable(Column{Name: "A", Min: 4}, Column{Name: "B", Note: "note", Right: true}, Column{Name: "C", Min: 10})
	table.Row(strings.Repeat("x", 300), "7", "\x1b[31mred\n")
	table.Row("", "1234567", strings.Repeat("y", 90))
	table.Row("only")
	var b strings.Builder
	if err := table.Write(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines, not 5:\n%s", len(lines), b.String())
	}
	for _, line := range lines {
		if Columns(line) > Width || strings.Contains(line, "\x1b") {
			t.Errorf("%d columns: %q", Columns(line), line)
		}
	}
	if !strings.Contains(lines[2], "      7  ?[31mred") || !strings.HasSuffix(lines[4], "-") {
		t.Errorf("not aligned:\n%s", b.String())
	}

	// Columns that must not be cut are cut all the same before a line gets too long.
	rigid := NewTable(Column{Name: "A"}, Column{Name: "B"})
	rigid.Row(strings.Repeat("x", 80), strings.Repeat("y", 80))
	b.Reset()
	if err := rigid.Write(&b); err != nil || Columns(strings.Split(b.String(), "\n")[1]) > Width {
		t.Errorf("%v, %q", err, b.String())
	}
}

func TestPage(t *testing.T) {
	var b strings.Builder
	p := NewPage(&b)
	p.Line(2, "line "+strings.Repeat("z", 200))
	p.Heading("Heading")
	p.Item(0, "lead", 8, strings.Repeat("word ", 30))
	p.Item(2, "a lead that is longer", 8, "text")
	p.Item(0, "", 0, "")
	if p.Err() != nil {
		t.Fatal(p.Err())
	}
	lines := strings.Split(b.String(), "\n")
	for _, line := range lines {
		if Columns(line) > Width {
			t.Errorf("%d columns: %q", Columns(line), line)
		}
	}
	if !strings.Contains(b.String(), "\n\nHeading\nlead    word word") || !strings.Contains(b.String(), "\n  a lead that is longer\n        text\n") {
		t.Errorf("%q", b.String())
	}
}

type broken struct{ after int }

func (w *broken) Write(p []byte) (int, error) {
	if w.after--; w.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestPageKeepsTheFirstError(t *testing.T) {
	p := NewPage(&broken{after: 1})
	p.Line(0, "fine")
	if p.Err() != nil {
		t.Fatal(p.Err())
	}
	p.Line(0, "lost")
	p.Table(NewTable(Column{Name: "A"}))
	if !errors.Is(p.Err(), io.ErrClosedPipe) {
		t.Errorf("%v", p.Err())
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := JSON(&b, map[string]string{"a": "<&>"}); err != nil || b.String() != "{\n  \"a\": \"<&>\"\n}\n" {
		t.Errorf("%v, %q", err, b.String())
	}
	b.Reset()
	if err := JSONLine(&b, []int{1, 2}); err != nil || b.String() != "[1,2]\n" {
		t.Errorf("%v, %q", err, b.String())
	}
	if err := JSON(&b, math.NaN()); err == nil {
		t.Error("NaN was printed as JSON")
	}
	if err := JSONLine(&b, math.NaN()); err == nil {
		t.Error("NaN was printed as JSON")
	}
}

func TestProgressIsSilentWithoutTerminal(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b)
	p.Step("working")
	p.Done()
	if b.Len() > 0 {
		t.Errorf("printed %q", b.String())
	}
}

func TestProgressWipesItself(t *testing.T) {
	var b strings.Builder
	p := &Progress{w: &b} // as on a terminal
	p.Step("one")
	p.Step("two\x1b")
	p.Done()
	p.Done()
	if want := "\rone …\r     \r\rtwo? …\r      \r"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func FuzzWrap(f *testing.F) {
	f.Add("the quick brown fox", 7)
	f.Add("\x1b[31m界\u202e\u0301a", 2)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 2 || n > 200 { // a wide character does not fit one column
			t.Skip()
		}
		for _, line := range Wrap(s, n) {
			if Columns(line) > n {
				t.Errorf("%q has %d columns, the most is %d", line, Columns(line), n)
			}
		}
		if got := Truncate(Printable(s), n); Columns(got) > n {
			t.Errorf("Truncate: %q has %d columns, the most is %d", got, Columns(got), n)
		}
	})
}
