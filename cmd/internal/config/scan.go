package config

import (
	"path/filepath"
	"strings"
	"time"
)

func (c *Config) readScan(t *table) {
	s := &c.Scan
	t.flag("enabled", &s.Enabled)
	t.duration("first_scan_wait", &s.FirstScanWait, 0, time.Minute)
	t.duration("timeout", &s.Timeout, time.Second, 10*time.Minute)
	t.size("memory", &s.Memory)
	if least := int64(64 << 20); s.Memory < least {
		t.problem(t.at("memory"), `write at least "64Mi"`, "is too little to scan anything")
	}
	t.size("cache", &s.Cache)
	if least := int64(1 << 20); s.Cache < least {
		t.problem(t.at("cache"), `write at least "1Mi"`, "is too little to keep a scan")
	}
	t.file("osv", &s.OSV, "/var/lib/osv")
	t.strings("exploited", func(path []string, file string) {
		if !filepath.IsAbs(file) || strings.ContainsAny(file, "\x00\n") {
			t.problem(path, `write an absolute path such as "/var/lib/forefend/kev.json"`, "%.60q is not an absolute path", file)
			return
		}
		s.Exploited = append(s.Exploited, filepath.Clean(file))
	})
	t.rest()
}

// ScansDir holds the results of scans.
func (c *Config) ScansDir() string { return filepath.Join(c.Root, "scans") }

// ScanCache holds what the scanner remembers of single files.
func (c *Config) ScanCache() string { return filepath.Join(c.Root, "scans", "objects") }
