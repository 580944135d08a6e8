package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/tunnel"
)

// TestFollowTunnels: tunnels are those of the file, as it is; one that is not in order changes nothing.
func TestFollowTunnels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	direct := func(name string) string { return "[[tunnel]]\nname = \"" + name + "\"\nkind = \"direct\"\n" }
	write(direct("one"))
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	service, err := tunnel.Open(ctx, tunnel.NewPool(poolOf(ctx, cfg)), t.TempDir(), filepath.Join(t.TempDir(), "drained.json"), func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	ways, err := keepUplinks(ctx, &config.Config{State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		followTunnels(ctx, path, service, ways)
	}()
	defer func() {
		cancel()
		<-done
	}()
	names := func() string {
		list, err := service.Tunnels(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, one := range list.Tunnels {
			all = append(all, one.Name)
		}
		return strings.Join(all, " ")
	}
	become := func(want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); names() != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the tunnels are %q, not %q", names(), want)
			}
		}
	}
	write(direct("one") + direct("two"))
	become("one two")
	write(direct("one") + "[[tunnel]]\nkind = \"carrier pigeon\"\n")
	time.Sleep(3 * followEvery) // nothing is to happen, which nobody tells
	become("one two")
	write(direct("three"))
	become("three")
}
