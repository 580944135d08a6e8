package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Threats is where threat intelligence comes from.
type Threats struct {
	Feeds    []string      // directories of feed files and attack patterns
	HalfLife time.Duration // of an indicator's confidence
	Fetch    []Fetch       // feeds to download
}

// Fetch is a feed that the daemon downloads into FetchedDir.
type Fetch struct {
	URL      string // https
	File     string // name in FetchedDir
	Checksum string // URL of the file's SHA-256; empty: none
	Every    time.Duration
	MaxSize  int64 // bytes
}

// FetchedDir holds the feeds that were downloaded.
func (c *Config) FetchedDir() string { return filepath.Join(c.Root, "feeds") }

// FeedDirs are the directories of all feeds.
func (c *Config) FeedDirs() []string {
	if len(c.Threats.Fetch) == 0 {
		return c.Threats.Feeds
	}
	return append(slices.Clone(c.Threats.Feeds), c.FetchedDir())
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
	for _, t := range t.subs("fetch") {
		c.readFetch(t)
	}
	t.rest()
}

func (c *Config) readFetch(t *table) {
	f := Fetch{Every: 6 * time.Hour, MaxSize: 16 << 20}
	given := t.https("url", &f.URL)
	t.https("checksum", &f.Checksum)
	if _, named := t.values["file"]; named {
		t.text("file", &f.File)
	} else if given {
		f.File = f.URL[strings.LastIndexByte(f.URL, '/')+1:]
	}
	t.duration("every", &f.Every, time.Minute, 365*day)
	t.size("max_size", &f.MaxSize)
	t.rest()
	if _, tried := t.values["url"]; !tried {
		t.problem(t.at("url"), `write url = "https://…"`, "is missing")
	}
	if !given {
		return
	}
	switch {
	case f.File != filepath.Base(f.File) || strings.HasPrefix(f.File, ".") || strings.ContainsAny(f.File, "\x00\n?#") || len(f.File) > 200:
		t.problem(t.at("file"), `write the name under which it is kept, such as file = "drop.json"`, "%.60q is not the name of a file", f.File)
	case slices.ContainsFunc(c.Threats.Fetch, func(o Fetch) bool { return o.File == f.File }):
		t.problem(t.at("file"), "give each feed a file of its own", "%.60q is fetched twice", f.File)
	case f.MaxSize < 1 || f.MaxSize > maxFeed:
		t.problem(t.at("max_size"), fmt.Sprintf(`write a size up to "%dMi"`, maxFeed>>20), "no feed of that size is read")
	}
	c.Threats.Fetch = append(c.Threats.Fetch, f)
}

// maxFeed is the largest feed that is read, predictor/threat's MaxFile.
const maxFeed = 64 << 20

// https reads the address of a file that cannot be changed on its way.
func (t *table) https(key string, into *string) bool {
	var s string
	if !t.text(key, &s) {
		return false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		t.problem(t.at(key), `write an address such as "https://example.com/list.netset"`, "%.60q is not an https address without a user", s)
		return false
	}
	*into = s
	return true
}
