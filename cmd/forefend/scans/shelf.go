package scans

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

const (
	maxResult  = 4 << 20 // bytes of one scan, as of the scanner's output
	maxResults = 2048    // files
	suffix     = ".json"
)

// shelf keeps scans as files of a directory, one a key. What was not used for longest makes room.
type shelf struct {
	dir   string
	bytes int64 // most of all files together
}

func (s shelf) path(key string) string { return filepath.Join(s.dir, key+suffix) }

// read returns a kept scan. The error wraps fs.ErrNotExist when there is none that this version reads.
func (s shelf) read(key string) (*evidence.Scan, error) {
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, fmt.Errorf("kept scan: %w", err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxResult+1))
	if err != nil {
		return nil, fmt.Errorf("kept scan: %w", err)
	}
	var scan evidence.Scan
	if len(body) > maxResult || json.Unmarshal(body, &scan) != nil || scan.Version != evidence.ScanVersion || scan.Key != key {
		return nil, fmt.Errorf("kept scan %s is damaged or of another version: %w", key, fs.ErrNotExist)
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now) // it is the one in use; a directory that cannot be written to keeps what it has
	return &scan, nil
}

// write keeps a scan under its key and makes room.
func (s shelf) write(scan *evidence.Scan) error {
	body, err := json.Marshal(scan)
	if err != nil {
		return fmt.Errorf("keep a scan: %w", err)
	}
	if len(body) > maxResult {
		return fmt.Errorf("keep a scan of %d bytes: the most is %d", len(body), maxResult)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("keep a scan: %w", err)
	}
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("keep a scan: %w", err)
	}
	_, err = f.Write(body)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path(scan.Key))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep a scan: %w", err), os.Remove(f.Name()))
	}
	return s.tidy()
}

// tidy removes the files used longest ago until the rest fits, and what a writer that died left.
func (s shelf) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("make room for scans: %w", err)
	}
	var kept []fs.FileInfo
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if !strings.HasSuffix(e.Name(), suffix) {
			if time.Since(info.ModTime()) > time.Minute {
				_ = os.Remove(filepath.Join(s.dir, e.Name())) // tried again next time
			}
			continue
		}
		kept, total = append(kept, info), total+info.Size()
	}
	slices.SortFunc(kept, func(x, y fs.FileInfo) int {
		return cmp.Or(x.ModTime().Compare(y.ModTime()), cmp.Compare(x.Name(), y.Name()))
	})
	for n := len(kept); len(kept) > 1 && (total > s.bytes || n > maxResults); n-- {
		total -= kept[0].Size()
		if err := os.Remove(filepath.Join(s.dir, kept[0].Name())); err != nil {
			return fmt.Errorf("make room for scans: %w", err)
		}
		kept = kept[1:]
	}
	return nil
}
