// Command images builds the container images that tests, the demonstration and the benchmark run: real servers from
// Debian packages and small ones made of a single static binary. Each becomes one OCI archive, OUT/NAME.tar, that
// `ctr image import` names docker.io/library/NAME:latest.
//
// It is a build tool: nothing imports it. An image is built again only when its recipe or what goes into it changed;
// a record beside the archive (NAME.key) says from what it was made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	out := flag.String("out", filepath.Join(".cache", "images"), "directory for the archives")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: images [-out DIR] [NAME...]   (names: %s)\n", strings.Join(names(), " "))
		flag.PrintDefaults()
	}
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *out, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// run builds the named images, or all of them, into dir.
func run(ctx context.Context, dir string, wanted []string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	chosen, err := choose(wanted)
	if err != nil {
		return err
	}
	// The probe is wanted on its own too: tests bind-mount it into images that have no such tool.
	for _, name := range []string{probeName, growerName} {
		if err := buildStatic(ctx, name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	// Side by side: an image of Debian packages keeps one processor busy for a minute and more.
	failed := make([]error, len(chosen))
	var building sync.WaitGroup
	for i, r := range chosen {
		building.Go(func() {
			if err := buildOnce(ctx, dir, r); err != nil {
				failed[i] = fmt.Errorf("image %s: %w", r.name, err)
			}
		})
	}
	building.Wait()
	return errors.Join(failed...)
}

// buildOnce makes the archive of r unless the one in dir was made from the same things.
func buildOnce(ctx context.Context, dir string, r recipe) error {
	key, err := r.key(dir)
	if err != nil {
		return err
	}
	archive := filepath.Join(dir, r.name+".tar")
	keyFile := filepath.Join(dir, r.name+".key")
	if have, err := os.ReadFile(keyFile); err == nil && string(have) == key {
		if _, err := os.Stat(archive); err == nil {
			return nil
		}
	}
	// Without its record a half-written archive can never pass for a finished one.
	if err := os.Remove(keyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Printf("images: building %s\n", r.name)
	begin := time.Now()
	if err := build(ctx, dir, archive, r); err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, []byte(key), 0o644); err != nil {
		return err
	}
	fmt.Printf("images: %s built in %.1f s\n", r.name, time.Since(begin).Seconds())
	return nil
}
