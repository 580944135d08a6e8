package config

import (
	"path/filepath"
	"strings"
	"time"
)

// Threats is where threat intelligence comes from.
type Threats struct {
	Feeds    []string      // directories of feed files and attack patterns
	HalfLife time.Duration // of an indicator's confidence
}

func (c *Config) readThreats(t *table) {
	var dirs []string
	t.strings("feeds", func(path []string, s string) {
		if !filepath.IsAbs(s) || strings.ContainsAny(s, "\x00\n") {
			t.problem(path, `write an absolute path such as "/etc/forefend/feeds"`, "%.60q is not an absolute path", s)
			return
		}
		dirs = append(dirs, filepath.Clean(s))
	})
	if _, given := t.values["feeds"]; given {
		c.Threats.Feeds = dirs
	}
	t.duration("half_life", &c.Threats.HalfLife, time.Hour, 3650*day)
	t.rest()
}
