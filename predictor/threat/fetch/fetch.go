// Package fetch downloads threat feeds into a directory that is read like every other one. It is off unless a site names
// a source. What comes is hostile until read: size and time are bounded, and a file is replaced whole or not at all.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Bounds.
const (
	maxRedirects = 5
	maxChecksum  = 4 << 10 // bytes of a file of checksums
	timeout      = 2 * time.Minute
	firstRetry   = time.Minute // doubled with each failure, up to the source's interval
)

// Source is one feed.
type Source struct {
	URL      string        // https
	File     string        // name in the directory; its ending says how it is read
	Every    time.Duration // between two downloads
	MaxSize  int64         // bytes, as they come
	Checksum string        // URL of the SHA-256 of the file, as sha256sum writes it; empty: not checked
}

// Fetcher keeps the files of its sources up to date.
type Fetcher struct {
	Sources []Source
	Dir     string
	Client  *http.Client // nil: one that follows redirects to https only
	// Report is told of every attempt: whether the file changed, or why it stays as it was. It is called from several goroutines.
	Report func(s Source, changed bool, err error)
}

// Run downloads until ctx ends. A file of an earlier run is asked for again only when it is due.
func (f *Fetcher) Run(ctx context.Context) error {
	if len(f.Sources) == 0 {
		return nil
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return fmt.Errorf("fetch threat feeds: %w", err)
	}
	var all sync.WaitGroup
	for _, s := range f.Sources {
		all.Go(func() { f.keep(ctx, s) })
	}
	all.Wait()
	return nil
}

func (f *Fetcher) keep(ctx context.Context, s Source) {
	wait, failures := f.due(s, time.Now()), 0
	for {
		// A fleet that was started together must not come to the same second.
		timer := time.NewTimer(wait + rand.N(wait/10+time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		changed, err := f.Fetch(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if f.Report != nil {
			f.Report(s, changed, err)
		}
		wait = s.Every
		if err != nil {
			wait = min(s.Every, firstRetry<<min(failures, 16))
			failures++
		} else {
			failures = 0
		}
	}
}

// due is how long the file that is there is still good. Each successful attempt dates it anew.
func (f *Fetcher) due(s Source, now time.Time) time.Duration {
	info, err := os.Stat(f.stamp(s))
	if err != nil {
		return 0
	}
	return min(max(info.ModTime().Add(s.Every).Sub(now), 0), s.Every)
}

// stamp is the file that remembers when a feed was asked for last, and the entity tag of what came. Feeds are dated by
// their own change: to touch them would have them read again.
func (f *Fetcher) stamp(s Source) string { return filepath.Join(f.Dir, "."+s.File+".etag") }

// Fetch downloads one feed if the server has a newer one, and returns whether it replaced the file.
func (f *Fetcher) Fetch(ctx context.Context, s Source) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	changed, err = f.fetch(ctx, s)
	if err != nil {
		return false, fmt.Errorf("fetch %s: %w", s.URL, err)
	}
	return changed, nil
}

func (f *Fetcher) fetch(ctx context.Context, s Source) (bool, error) {
	tag, _ := os.ReadFile(f.stamp(s))
	if _, err := os.Stat(filepath.Join(f.Dir, s.File)); err != nil {
		tag = nil // it has to come, whatever was there once
	}
	resp, err := f.get(ctx, s.URL, string(tag))
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && len(tag) > 0 {
		return false, os.WriteFile(f.stamp(s), tag, 0o600)
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the server says %s", resp.Status)
	}
	if resp.ContentLength > s.MaxSize {
		return false, fmt.Errorf("has %d bytes, max_size allows %d", resp.ContentLength, s.MaxSize)
	}
	part, err := os.CreateTemp(f.Dir, ".*.part")
	if err != nil {
		return false, err
	}
	defer os.Remove(part.Name()) // once renamed it is not there
	defer part.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(part, sum), io.LimitReader(resp.Body, s.MaxSize+1))
	switch {
	case err != nil:
		return false, err
	case n > s.MaxSize:
		return false, fmt.Errorf("has more than the %d bytes that max_size allows", s.MaxSize)
	case n == 0:
		return false, errors.New("is empty")
	}
	if s.Checksum != "" {
		if err := f.check(ctx, s, sum.Sum(nil)); err != nil {
			return false, err
		}
	}
	if err := errors.Join(part.Sync(), part.Close()); err != nil {
		return false, err
	}
	if err := os.Rename(part.Name(), filepath.Join(f.Dir, s.File)); err != nil {
		return false, err
	}
	return true, os.WriteFile(f.stamp(s), []byte(resp.Header.Get("ETag")), 0o600)
}

// check compares a sum with the published one: the first word of the line that names the file, or of the only line.
func (f *Fetcher) check(ctx context.Context, s Source, sum []byte) error {
	resp, err := f.get(ctx, s.Checksum, "")
	if err != nil {
		return fmt.Errorf("its checksum: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxChecksum))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("its checksum: the server says %s: %w", resp.Status, err)
	}
	name := s.URL[strings.LastIndexByte(s.URL, '/')+1:]
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines {
		words := strings.Fields(line)
		if len(words) == 0 || len(lines) > 1 && (len(words) < 2 || strings.TrimPrefix(words[1], "*") != name) {
			continue
		}
		if want := strings.ToLower(words[0]); want != hex.EncodeToString(sum) {
			return fmt.Errorf("its SHA-256 is %x, %s says %.64s", sum, s.Checksum, want)
		}
		return nil
	}
	return fmt.Errorf("%s has no SHA-256 of %s", s.Checksum, name)
}

func (f *Fetcher) get(ctx context.Context, url, tag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "forefend")
	req.Header.Set("Accept-Encoding", "identity") // the size that is bounded is the size that is kept
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	client := f.Client
	if client == nil {
		client = &http.Client{}
	}
	bounded := *client
	bounded.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if req.URL.Scheme != "https" {
			return fmt.Errorf("redirected to %.100q, which is not https", req.URL)
		}
		return nil
	}
	return bounded.Do(req)
}
