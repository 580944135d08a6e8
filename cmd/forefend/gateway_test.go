package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/netns/gateway"
	"forefend.dev/forefend/runtime/stamps"
)

// TestClientsFile copies a gateway's file bit by bit, each of which is a file in order: nobody of it loses its place meanwhile.
func TestClientsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gateway.toml")
	head := fmt.Sprintf("ca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\npools = [\"10.8.0.0/24\"]\nstate = %q\n[wireguard]\nprivate_key_file = \"/wg\"\nendpoints = [\"127.0.0.1:51820\"]\n", dir)
	client := func(name string) string { return fmt.Sprintf("[[client]]\nname = %q\nleases = 5\n", name) }
	parts := []string{head + client("a"), client("b"), client("c")}
	if err := os.WriteFile(path, []byte(strings.Join(parts, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	var lists [][]string
	f := clientsFile{file: stamps.Follow(path), path: path, set: func(_ context.Context, all []gateway.Client) error {
		var names []string
		for _, c := range all {
			names = append(names, c.Name)
		}
		lists = append(lists, names)
		return nil
	}}
	looks := func(n int, want ...string) {
		t.Helper()
		lists = nil
		for range n {
			f.look(t.Context())
		}
		if want == nil && len(lists) > 0 || want != nil && (len(lists) != 1 || !slices.Equal(lists[0], want)) {
			t.Fatalf("the lists were %q, wanted %q", lists, want)
		}
	}
	looks(3, "a", "b", "c")
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, part := range append(parts, client("d")) {
		looks(1)
		if _, err := file.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	looks(3, "a", "b", "c", "d")
	if err := os.WriteFile(path, []byte("leases = x"), 0o600); err != nil {
		t.Fatal(err)
	}
	looks(3)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	looks(3)
}
