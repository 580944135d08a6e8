package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	o, rest, err := parse("test", []string{"-run", "TestX", "-v", "-cpus=2", "-disk", "0", "-timeout", "10m", "./a", "./b"})
	if err != nil || !slices.Equal(rest, []string{"./a", "./b"}) || o.machine.CPUs != 2 || o.machine.Disk != 0 || o.timeout != 10*time.Minute {
		t.Errorf("%+v, %q, %v", o, rest, err)
	}
	if got := strings.Join(o.testFlags(), " "); got != "-test.count=1 -test.timeout=9m0s -test.run=TestX -test.v" {
		t.Errorf("flags %s", got)
	}
	if o, rest, err := parse("run", []string{"ls", "-l"}); err != nil || !slices.Equal(rest, []string{"ls", "-l"}) || o.machine.CPUs != 1 {
		t.Errorf("%+v, %q, %v", o, rest, err)
	}
	for _, args := range [][]string{nil, {"-v"}, {"-cpus", "0", "x"}, {"-memory", "1", "x"}, {"-disk", "-1", "x"}, {"-nonsense", "x"}} {
		if _, _, err := parse("test", args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	if _, _, err := parse("run", []string{"-run", "TestX", "ls"}); err == nil {
		t.Error("run takes the flags of test")
	}
}

func TestCommandWithoutAVerb(t *testing.T) {
	for _, args := range [][]string{nil, {"boot"}} {
		if _, err := command(t.Context(), args); err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	ours := []string{"PATH=/bin", "TMPDIR=/somewhere", "HOME=/root"}
	if got := environment(ours, "run"); !slices.Equal(got, []string{"PATH=/bin", "HOME=/root"}) {
		t.Errorf("%q", got)
	}
	if got := environment(ours, "test"); !slices.Contains(got, "FOREFEND_ROOT_TESTS=1") {
		t.Errorf("%q", got)
	}
	if !slices.Contains(ours, "TMPDIR=/somewhere") {
		t.Error("the environment itself was changed")
	}
}

func TestTestBinary(t *testing.T) {
	if got, err := testBinary("/src", "/src/test/e2e"); err != nil || got != "/src/.cache/vm/tests/test-e2e.test" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := testBinary("/src", "/elsewhere/e2e"); err == nil {
		t.Errorf("%q", got)
	}
}
