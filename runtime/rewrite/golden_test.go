package rewrite

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write what Apply does into the golden files")

// golden is one case of testdata/steps: the spec and policy that go in, the
// spec that comes out.
type golden struct {
	Doc     string              `json:"doc"`
	Unified bool                `json:"unified,omitempty"`
	Gated   bool                `json:"gated,omitempty"`
	Policy  map[string]string   `json:"policy"`
	Seccomp *specs.LinuxSeccomp `json:"seccomp,omitempty"`
	Spec    json.RawMessage     `json:"spec"`
	Want    json.RawMessage     `json:"want"`
}

func TestGolden(t *testing.T) {
	for _, s := range steps {
		files, err := filepath.Glob(filepath.Join("testdata/steps", s.name, "*.json"))
		if err != nil || len(files) == 0 {
			t.Errorf("step %s has no golden file: %v", s.name, err)
		}
		for _, f := range files {
			t.Run(s.name+"/"+filepath.Base(f), func(t *testing.T) { testGolden(t, f) })
		}
	}
}

func testGolden(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := parse[golden](t, string(raw))
	spec := parse[specs.Spec](t, string(g.Spec))
	in := Input{Effective: decided(t, g.Policy), Seccomp: g.Seccomp, Unified: g.Unified, Gated: g.Gated}
	for _, pass := range []string{"first", "second"} {
		if err := Apply(spec, in); err != nil {
			t.Fatal(err)
		}
		got := text(t, spec)
		if *update {
			g.Want = json.RawMessage(got)
			writeGolden(t, file, g)
		}
		if want := text(t, parse[specs.Spec](t, string(g.Want))); got != want {
			t.Errorf("%s pass:\n got %s\nwant %s", pass, got, want)
		}
	}
}

func writeGolden(t *testing.T, file string, g *golden) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(g); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
