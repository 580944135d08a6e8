package scans

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/sandbox"
	"forefend.dev/forefend/runtime/cgroup"
)

const (
	// A scan gives way to what runs on the node, and goes first when memory is short.
	scanNice     = 5
	scanOOMScore = 500
)

// Scanner is how the scanner is run.
type Scanner struct {
	Binary string        // the path of forefend-scan
	Cache  string        // directory of analysed objects; empty: none
	OSV    string        // directory or zip of OSV data; empty: none
	Time   time.Duration // most
	Memory int64         // most, bytes
	Group  string        // the cgroup it runs in, see cgroup.Join; empty: the caller's
}

// Scan makes one scan.
func (s Scanner) Scan(ctx context.Context, r Request) (evidence.Scan, error) {
	if s.Cache != "" {
		if err := os.MkdirAll(s.Cache, 0o700); err != nil {
			return evidence.Scan{}, fmt.Errorf("directory of analysed objects: %w", err)
		}
	}
	return sandbox.Run(ctx, s.Binary, r.arguments(s.Cache, s.OSV), sandbox.Limits{Time: s.Time, Memory: s.Memory, Started: s.giveWay})
}

// giveWay undoes what the scanner has inherited of the daemon's precedence. What the kernel refuses is no reason not to scan.
func (s Scanner) giveWay(pid int) error {
	if s.Group != "" {
		_ = cgroup.Join(s.Group, pid)
	}
	_ = unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: scanNice}, 0)
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), fmt.Appendf(nil, "%d", scanOOMScore), 0)
	return nil
}

// Beside returns the path of the scanner that belongs to the program running: the one in the same directory.
func Beside() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find my own binary: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "forefend-scan")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no scanner: install forefend-scan beside forefend: %w", err)
	}
	return path, nil
}

// Once answers from dir what was found before, or scans, and keeps the result of an image for the daemon. A Request
// without a key is always scanned, and not kept.
func Once(ctx context.Context, scanner Scanner, dir string, bytes int64, r Request) (*evidence.Scan, error) {
	kept := shelf{dir, bytes}
	if r.Key != "" {
		if s, err := kept.read(r.Key); err == nil {
			return s, nil
		}
	}
	s, err := scanner.Scan(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", r.Args[0], err)
	}
	s.Key = r.Key
	if r.Key != "" && os.Geteuid() == 0 {
		if err := kept.write(&s); err != nil {
			return nil, err
		}
	}
	return &s, nil
}
