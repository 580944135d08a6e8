package soak

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// lives are what containers do before they end, by themselves or killed.
var lives = []kind{
	{image: "busybox", args: []string{"true"}},
	{image: "busybox", args: []string{"sh", "-c", "mkdir /tmp/a && echo x > /tmp/a/b && cat /tmp/a/b && (sleep 0.05 & wait)"}},
	{image: "static", args: []string{"/probe", "exit", "0"}},
	{image: "redis", args: []string{"redis-server", "--save", "", "--dir", "/data"}, check: []string{"redis-cli", "ping"}}, // killed
}

// TestLives is `make lives`: containers come and go, and in the end the node is as it was.
func TestLives(t *testing.T) {
	root.Test(t)
	text := os.Getenv("LIVES")
	if text == "" {
		t.Skip("LIVES says how many containers come and go, such as 10000: run make lives")
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		t.Fatalf("LIVES=%q is no number of containers", text)
	}
	s := newSoak(t)
	began := time.Now()
	for n := range count {
		s.live(n)
		if n%max(1, count/40) == 0 {
			s.grown.sample(s.measure())
			s.nothingLeft(n)
		}
	}
	s.grown.check(t)
	t.Logf("%d lives in %s; %s", count, time.Since(began).Round(time.Second), s.grown)
}

// live has one container come and go.
func (s *soak) live(n int) {
	k, id := lives[n%len(lives)], fmt.Sprintf("life-%d", n)
	start := []string{"run", "--runtime", runtime}
	if k.check == nil {
		s.must(s.Ctr(append(append(start, "--rm", harness.Image(k.image), id), k.args...)...))
		return
	}
	s.must(s.Ctr(append(append(start, "-d", harness.Image(k.image), id), k.args...)...))
	s.Ctr(append([]string{"task", "exec", "--exec-id", "check", id}, k.check...)...) // it may still be starting
	s.must(s.Ctr("task", "rm", "-f", id))
	s.must(s.Ctr("container", "rm", id))
}

// nothingLeft fails the test where a container of before has left anything, on the machine or among Forefend's own files.
func (s *soak) nothingLeft(n int) {
	s.t.Helper()
	left, err := s.Leaks(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(s.Dir, "run"), func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(path, "life-") {
			left = append(left, path)
		}
		return err
	})
	if err != nil || len(left) > 0 {
		s.t.Fatalf("after %d lives: %v\n%s", n+1, err, strings.Join(left, "\n"))
	}
}
