package rules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestFollower changes rules: those in order are taken, with a new epoch; others leave what was there and are told of once.
func TestFollower(t *testing.T) {
	dir := directory(t, map[string]string{"a.toml": site})
	var told []Reload
	f := NewFollower(dir, deny, func(r Reload) { told = append(told, r) })
	set, first := f.Rules()
	if set == nil || set.Len() != 2 || len(told) != 1 || told[0].Err != nil || told[0].Rules != 2 {
		t.Fatalf("%+v", told)
	}
	f.Look()
	if len(told) != 1 {
		t.Errorf("told of no change: %+v", told)
	}
	waited := make(chan uint64, 1)
	go func() { waited <- f.Await(t.Context(), first) }()

	file := filepath.Join(dir, "b.toml")
	if err := os.WriteFile(file, []byte("[[rule]]\nname = 'x'\nwhen = 'nonsense'\ndeny = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Look()
	f.Look()
	if same, epoch := f.Rules(); same != set || epoch != first || len(told) != 2 || told[1].Err == nil || told[1].Rules != 2 {
		t.Errorf("epoch %d, %+v", epoch, told)
	}
	if err := os.WriteFile(file, []byte("[[rule]]\nname = 'x'\nwhen = 'risk > 5'\ndeny = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Look()
	now, second := f.Rules()
	if now == nil || now.Len() != 3 || second <= first || <-waited != second {
		t.Errorf("epochs %d, %d", first, second)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.Look()
	f.Look()
	if kept, epoch := f.Rules(); kept != now || epoch != second || len(told) != 4 || told[3].Err == nil {
		t.Errorf("without a directory: %+v", told)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got := f.Await(ctx, second); got != second {
		t.Errorf("%d", got)
	}
}

// Rules that were never in order are no rules: there is no set, and so nothing is let through.
func TestFollowerBegins(t *testing.T) {
	var told []Reload
	dir := filepath.Join(t.TempDir(), "rules")
	f := NewFollower(dir, deny, func(r Reload) { told = append(told, r) })
	if set, _ := f.Rules(); set != nil || len(told) != 1 || told[0].Err == nil {
		t.Errorf("%+v", told)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f.Look()
	if set, _ := f.Rules(); set == nil || set.Len() != 0 || len(told) != 2 {
		t.Errorf("%+v", told)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	cancel()
	<-done
}

// TestFollowerIsTold: an edit is in force long before the next look, however the files come there, and in a directory that was replaced.
func TestFollowerIsTold(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "rules")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := NewFollower(dir, deny, func(Reload) {})
	f.every = time.Hour // the telling, not the looking
	follow := func(f *Follower) (ctx context.Context, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { f.Run(ctx); close(done) }()
		return ctx, func() { cancel(); <-done }
	}
	ctx, stop := follow(f)
	rule := func(n int) []byte {
		return fmt.Appendf(nil, "[[rule]]\nname = 'x'\nwhen = 'risk > %d'\ndeny = true\n", n)
	}
	name := filepath.Join(dir, "a.toml")
	edits := map[string]func(n int) error{
		"written in place": func(n int) error { return os.WriteFile(name, rule(n), 0o600) },
		"renamed": func(n int) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, ".new"), rule(n), 0o600), os.Rename(filepath.Join(dir, ".new"), name))
		},
		"removed": func(int) error { return os.Remove(name) },
		"replaced": func(n int) error {
			other := filepath.Join(top, "other")
			return errors.Join(os.Mkdir(other, 0o700), os.WriteFile(filepath.Join(other, "a.toml"), rule(n), 0o600), os.Rename(dir, filepath.Join(top, "old")), os.Rename(other, dir))
		},
	}
	var took []time.Duration
	for n := range 9 {
		for _, edit := range []string{"written in place", "renamed", "removed"} {
			before, _ := f.Watch()
			began := time.Now()
			if err := edits[edit](n); err != nil {
				t.Fatal(err)
			}
			waiting, enough := context.WithTimeout(ctx, time.Minute)
			now := f.Await(waiting, before)
			enough()
			if now == before {
				stop()
				t.Fatalf("%s: never in force", edit)
			}
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	t.Logf("an edit was in force after %s (median of %d; the longest %s)", took[len(took)/2], len(took), took[len(took)-1])
	stop()
	f = NewFollower(dir, deny, func(Reload) {}) // a directory that was replaced is seen by looking
	ctx, stop = follow(f)
	defer stop()
	for _, edit := range []string{"replaced", "written in place"} {
		before, _ := f.Watch()
		if err := edits[edit](99 - len(edit)); err != nil {
			t.Fatal(err)
		}
		if now := f.Await(ctx, before); now == before {
			t.Fatalf("%s: never in force", edit)
		}
	}
}
