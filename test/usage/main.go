// Command usage records how the memory of real servers develops, for `forefend eval limit`: redis filling at several
// rates or turning over, nginx steady, node and python and a Go program that leak or only breathe with their collector.
// All run at once for a few minutes on loopback; redis and nginx come from the test images (make images).
package main

import (
	"compress/gzip"
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	images := flag.String("images", ".cache/images", "folder of the test images")
	out := flag.String("out", "cmd/forefend/eval/testdata/limit_runs.csv.gz", "file to write")
	lasts := flag.Duration("for", 4*time.Minute, "how long to record")
	every := flag.Duration("every", 500*time.Millisecond, "time between samples")
	breathe := flag.String("breathe", "", "be the Go program: leak, sawtooth or steady (internal)")
	flag.Parse()
	if *breathe != "" {
		goProgram(*breathe)
		return
	}
	if err := record(*images, *out, *lasts, *every); err != nil {
		log.Fatal(err)
	}
}

func record(images, out string, lasts, every time.Duration) error {
	scratch, err := os.MkdirTemp("", "usage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for _, name := range []string{"redis", "nginx"} {
		if err := unpack(filepath.Join(images, name+".tar"), filepath.Join(scratch, name)); err != nil {
			return fmt.Errorf("image %s: %w (run make images first)", name, err)
		}
	}
	var mu sync.Mutex // guards rows
	var rows [][]string
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for _, s := range servers(scratch) {
		wait.Go(func() {
			got, err := follow(s, every, stop)
			if err != nil {
				log.Printf("%s: %v", s.name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, got...)
		})
	}
	time.Sleep(lasts)
	close(stop)
	wait.Wait()
	return write(out, rows)
}

// follow runs a server and its load, and samples the resident memory of its processes until stop.
func follow(s server, every time.Duration, stop <-chan struct{}) ([][]string, error) {
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.root, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.root != "" {
		cmd.Dir = "/"
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}()
	if s.load != nil {
		go s.load(stop)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	start := time.Now()
	var rows [][]string
	for {
		select {
		case <-stop:
			return rows, nil
		case err := <-done:
			done <- err
			return rows, fmt.Errorf("ended early: %v", err)
		case <-tick.C:
			t := strconv.FormatFloat(time.Since(start).Seconds(), 'f', 2, 64)
			rows = append(rows, []string{s.name, t, strconv.FormatInt(resident(cmd.Process.Pid), 10)})
		}
	}
}

// resident is the memory of a process and its descendants, in bytes.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	var sum int64
	if len(fields) > 2 {
		pages, _ := strconv.ParseInt(fields[1], 10, 64)
		sum = pages * int64(os.Getpagesize())
	}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, c := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(c); err == nil {
			sum += resident(child)
		}
	}
	return sum
}

func write(path string, rows [][]string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	c := csv.NewWriter(z)
	_ = c.Write([]string{"run", "seconds", "memory"})
	_ = c.WriteAll(rows)
	if err := c.Error(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}

// unpack lays an image archive's layers over each other.
func unpack(image, root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	layers, err := layersOf(image)
	if err != nil {
		return err
	}
	for _, layer := range layers {
		get := exec.Command("tar", "-xOf", image, layer)
		put := exec.Command("tar", "-xf", "-", "-C", root)
		pipe, err := get.StdoutPipe()
		if err != nil {
			return err
		}
		var in io.Reader = pipe
		if err := get.Start(); err != nil {
			return err
		}
		if z, err := maybeGzip(pipe); err == nil {
			in = z
		}
		put.Stdin = in
		if out, err := put.CombinedOutput(); err != nil {
			return fmt.Errorf("layer %s: %w: %s", layer, err, out)
		}
		if err := get.Wait(); err != nil {
			return err
		}
	}
	return nil
}
