package rules

import (
	"context"
	"os"
	"path/filepath"
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
