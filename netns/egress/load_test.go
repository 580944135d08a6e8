package egress

import (
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"
)

// flood sends by connections as much as goes, for a while.
func flood(to string, options map[string]string) error {
	n, err := strconv.Atoi(options["n"])
	if err != nil {
		return err
	}
	long, err := time.ParseDuration(options["for"])
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, n)
	end := time.Now().Add(long)
	for i := range n {
		all.Go(func() {
			c, err := dial("tcp", to, options)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			_ = c.SetDeadline(end) // a connection of ours has deadlines
			go func() { _, _ = io.Copy(io.Discard, c) }()
			for b := make([]byte, 64<<10); ; {
				if _, err := c.Write(b); err != nil {
					return // at the end at the latest
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// echo sends single bytes and waits for each to come back.
func echo(to string, options map[string]string) (string, error) {
	n, err := strconv.Atoi(options["n"])
	if err != nil {
		return "", err
	}
	c, err := dial("tcp", to, options)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(12 * patience)); err != nil { // a busy machine takes its time for each byte
		return "", err
	}
	b := make([]byte, 1)
	for b[0] != '\n' { // whose it is
		if _, err := c.Read(b); err != nil {
			return "", err
		}
	}
	var took []int64
	for range n {
		begun := time.Now()
		if _, err := c.Write(b); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return "", err
		}
		took = append(took, time.Since(begun).Microseconds())
		time.Sleep(5 * time.Millisecond) // a person types, or a call comes
	}
	slices.Sort(took)
	return strconv.FormatInt(took[len(took)/2], 10), nil
}
