package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// origin serves one feed and its checksum.
type origin struct {
	*httptest.Server
	body, sums string
	asked      atomic.Int32
	full       atomic.Int32 // answers with a body
}

func serve(t *testing.T, body string) *origin {
	o := &origin{body: body}
	mux := http.NewServeMux()
	mux.HandleFunc("/list.netset", func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		tag := fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256([]byte(o.body))))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		o.full.Add(1)
		fmt.Fprint(w, o.body)
	})
	mux.HandleFunc("/sums", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, o.sums) })
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/list.netset", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	o.Server = httptest.NewTLSServer(mux)
	t.Cleanup(o.Close)
	return o
}

func (o *origin) source(path string) Source {
	return Source{URL: o.URL + path, File: "list.netset", Every: time.Hour, MaxSize: 100}
}

func content(t *testing.T, f *Fetcher) string {
	data, err := os.ReadFile(filepath.Join(f.Dir, "list.netset"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}

func TestFetch(t *testing.T) {
	o := serve(t, "192.0.2.0/24\n")
	f := &Fetcher{Dir: t.TempDir(), Client: o.Client()}
	s := o.source("/list.netset")
	for i, want := range []bool{true, false, true} {
		if i == 2 {
			o.body = "198.51.100.0/24\n"
		}
		if changed, err := f.Fetch(t.Context(), s); err != nil || changed != want {
			t.Errorf("attempt %d: changed %v, %v", i, changed, err)
		}
		if got := content(t, f); got != o.body {
			t.Errorf("attempt %d: %q", i, got)
		}
	}
	if o.full.Load() != 2 {
		t.Errorf("%d downloads", o.full.Load())
	}
	if err := os.Remove(filepath.Join(f.Dir, "list.netset")); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Fetch(t.Context(), s); err != nil || !changed {
		t.Errorf("a file that was removed: %v, %v", changed, err)
	}
}

func TestChecksum(t *testing.T) {
	o := serve(t, "192.0.2.0/24\n")
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(o.body)))
	for sums, says := range map[string]string{
		sum:                                    "",
		strings.ToUpper(sum) + "  x":           "",
		"0  other\n" + sum + " *list.netset\n": "",
		"0  other\n" + sum + "  another\n":     "has no SHA-256 of list.netset",
		"0000":                                 "its SHA-256 is " + sum,
		"":                                     "has no SHA-256",
	} {
		f := &Fetcher{Dir: t.TempDir(), Client: o.Client()}
		s := o.source("/list.netset")
		s.Checksum, o.sums = o.URL+"/sums", sums
		changed, err := f.Fetch(t.Context(), s)
		if says == "" && (err != nil || !changed) || says != "" && (err == nil || !strings.Contains(err.Error(), says) || content(t, f) != "") {
			t.Errorf("%q: changed %v, %v", sums, changed, err)
		}
	}
}

// What cannot be used leaves the file as it was, and nothing beside it.
func TestRefused(t *testing.T) {
	o := serve(t, "192.0.2.0/24\n")
	f := &Fetcher{Dir: t.TempDir(), Client: o.Client()}
	if _, err := f.Fetch(t.Context(), o.source("/list.netset")); err != nil {
		t.Fatal(err)
	}
	for body, c := range map[string]struct{ path, says string }{
		strings.Repeat("x", 101):   {"/list.netset", "max_size"},
		strings.Repeat("y", 9_000): {"/list.netset", "max_size"},
		"":                         {"/list.netset", "is empty"},
		"a":                        {"/nothing", "404"},
		"b":                        {"/plain", "not https"},
		"c":                        {"/round", "redirects"},
	} {
		o.body = body
		if changed, err := f.Fetch(t.Context(), o.source(c.path)); err == nil || changed || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), o.URL) {
			t.Errorf("%s, %.9q: changed %v, %v", c.path, body, changed, err)
		}
		if got := content(t, f); got != "192.0.2.0/24\n" {
			t.Errorf("%s: %q is left", c.path, got)
		}
	}
	if parts, _ := filepath.Glob(filepath.Join(f.Dir, "*.part")); len(parts) > 0 {
		t.Errorf("left behind: %q", parts)
	}
}

// A daemon that is started again asks when the interval is over, one that failed before that.
func TestRun(t *testing.T) {
	o := serve(t, "192.0.2.0/24\n")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reports := make(chan error, 10)
	f := &Fetcher{Dir: filepath.Join(t.TempDir(), "feeds"), Client: o.Client(), Sources: []Source{o.source("/list.netset")},
		Report: func(_ Source, _ bool, err error) { reports <- err }}
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()
	select {
	case err := <-reports:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was fetched")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	now := time.Now()
	if wait := f.due(f.Sources[0], now); wait < 59*time.Minute || wait > time.Hour {
		t.Errorf("due in %v", wait)
	}
	if wait := f.due(f.Sources[0], now.Add(2*time.Hour)); wait != 0 {
		t.Errorf("two hours later due in %v", wait)
	}
	if wait := f.due(f.Sources[0], now.Add(-100*time.Hour)); wait != time.Hour { // the clock was set back
		t.Errorf("due in %v", wait)
	}
}
