package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFeedDirs(t *testing.T) {
	c := &Config{Root: "/r", Threats: Threats{Feeds: []string{"/a"}}}
	if got := c.FeedDirs(); !slices.Equal(got, []string{"/a"}) {
		t.Errorf("%q", got)
	}
	c.Threats.Fetch = []Fetch{{}}
	if got := c.FeedDirs(); !slices.Equal(got, []string{"/a", "/r/feeds"}) {
		t.Errorf("%q", got)
	}
}

func TestFetchProblems(t *testing.T) {
	const ok = `url = "https://lists.example/a.netset"`
	for body, says := range map[string]string{
		`file = "a"`:                              "threats.fetch.url: is missing",
		`url = "http://lists.example/a"`:          "is not an https address",
		`url = "https://me:secret@lists.example"`: "is not an https address",
		`url = "https://lists.example/"`:          "is not the name of a file",
		`url = "https://lists.example/?q=1"`:      "is not the name of a file",
		ok + "\n" + `file = "../a"`:               "is not the name of a file",
		ok + "\n" + `checksum = "a.sha256"`:       "is not an https address",
		ok + "\n" + `max_size = "1Gi"`:            "no feed of that size is read",
		ok + "\n" + `every = "1s"`:                "every",
		ok + "\n" + `evry = "1h"`:                 "every",
		ok + "\n[[threats.fetch]]\n" + ok:         "is fetched twice",
	} {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte("[[threats.fetch]]\n"+body+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\n%v", body, err)
		}
	}
}
