package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/policy"
)

// FuzzLoad feeds any text to the whole reader: it never fails otherwise than
// with problems that name a line of the file, and a config without problems is
// one that the rest of Forefend can rely on.
func FuzzLoad(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range append(seeds, exampleFile) {
		data, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxFile {
			t.Skip()
		}
		c, problems := parse("/etc/forefend/config.toml", data)
		for _, p := range problems {
			if p.Line < 0 || p.Line > strings.Count(string(data), "\n")+1 {
				t.Errorf("%v is on line %d of %d", p, p.Line, strings.Count(string(data), "\n")+1)
			}
			if s := p.String(); strings.ContainsAny(p.Key, "\n\x00") || len(s) > 4096 {
				t.Errorf("unfit to print: %q", s)
			}
		}
		if len(problems) == 0 {
			checkSound(t, c)
		}
	})
}

func checkSound(t *testing.T, c *Config) {
	if !filepath.IsAbs(c.Root) || !filepath.IsAbs(c.State) || len(c.State) > maxState {
		t.Errorf("directories %q, %q", c.Root, c.State)
	}
	if c.Sample <= 0 || c.Checkpoint < c.Sample || c.Deadlines.Predict <= 0 || c.Deadlines.Predict > c.Deadlines.Admit || c.Deadlines.ColdStart <= 0 {
		t.Errorf("durations %+v", c)
	}
	all := []policy.Profile{{Claims: c.Site.Claims, Guards: c.Site.Guards}}
	for _, p := range append(all, c.Site.Profiles...) {
		for _, claim := range p.Claims {
			if !claim.Key.Known() || claim.Source == "" || claim.Author != policy.Default {
				t.Errorf("claim %+v", claim)
			}
		}
		for _, g := range p.Guards {
			if !g.Key.Known() || g.Source == "" || g.Floor == nil && g.Ceiling == nil || g.Floor != nil && g.Ceiling != nil && *g.Floor > *g.Ceiling {
				t.Errorf("guard %+v", g)
			}
		}
	}
	policy.Merge(c.Site.Input(c.Site.Profile("user", "group"), nil))
}
