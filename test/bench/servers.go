package main

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Servers run in serverPairs pairs of containers; each pair is loaded burstsEach times in turn. Several pairs,
// because where a process happens to lie in memory changes its speed by a percent or two.
const (
	mostPairs  = 5
	burstsEach = 4
)

// server is a real server and its load.
type server struct {
	name  string // "": as the image
	image string
	args  []string // none: as the image says
	ready []string // succeeds once it serves
	// load makes requests and returns how many were answered.
	load func(ctx context.Context, pid string) (float64, error)
}

func (s server) called() string { return cmp.Or(s.name, s.image) }

var servers = []server{
	{
		image: "redis", ready: []string{"redis-cli", "ping"},
		load: func(ctx context.Context, pid string) (float64, error) {
			const requests = 60_000 // of each kind
			_, err := inNetwork(ctx, pid, "redis-benchmark", "-q", "-t", "set,get", "-n", strconv.Itoa(requests), "-d", "256", "-r", "20000")
			return 2 * requests, err
		},
	},
	{
		image: "nginx", ready: []string{"wrk", "-t1", "-c1", "-d1s", "http://127.0.0.1/small.txt"},
		load: func(ctx context.Context, pid string) (float64, error) {
			text, err := inNetwork(ctx, pid, "wrk", "-t1", "-c16", "-d2s", "http://127.0.0.1/small.txt")
			if err != nil || strings.Contains(text, "Socket errors") || strings.Contains(text, "Non-2xx") {
				return 0, fmt.Errorf("wrk: %q: %w", text, err)
			}
			return strconv.ParseFloat(match(`(\d+) requests in`, text), 64)
		},
	},
}

// measureServers counts requests per CPU second of the container, its shim and, for Forefend, the daemon.
func measureServers(ctx context.Context, b *bench) (figures []figure, err error) {
	n, err := openNode(ctx, nil, "redis", "nginx")
	if err != nil {
		return nil, err
	}
	defer func() {
		if closed := n.close(); err == nil {
			err = closed
		}
	}()
	pairs := min(mostPairs, (b.rounds+burstsEach-1)/burstsEach)
	for _, s := range servers {
		rates, err := n.serverRates(ctx, s, pairs)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", s.image, err)
		}
		f := paired(s.image+" (requests per CPU s)", "%.0f", "x%.3f", rates[stock], rates[forefend], ratio)
		figures = append(figures, f.hold(target{must: 0.98, aim: 1, atLeast: true}, f.Value))
	}
	return figures, nil
}

func (n *node) serverRates(ctx context.Context, s server, pairs int) (map[runtimeKind][]float64, error) {
	if err := n.warm(ctx, s); err != nil {
		return nil, err
	}
	rates := make(map[runtimeKind][]float64)
	for pair := range pairs {
		if err := n.loadPair(ctx, s, pair, rates); err != nil {
			return nil, fmt.Errorf("pair %d: %w", pair+1, err)
		}
	}
	return rates, nil
}

// warm lets Forefend learn what a server does under its load.
func (n *node) warm(ctx context.Context, s server) error {
	for range warmUp {
		c, err := n.serve(ctx, forefend, s)
		if err != nil {
			return err
		}
		if _, err := s.load(ctx, c.pid); err != nil {
			return err
		}
		if err := n.remove(ctx, c.id); err != nil {
			return err
		}
	}
	return nil
}

// loadPair starts the server under both runtimes and loads one after the other.
func (n *node) loadPair(ctx context.Context, s server, pair int, rates map[runtimeKind][]float64) error {
	pairOf := make(map[runtimeKind]serving)
	for _, kind := range inTurn(pair) {
		c, err := n.serve(ctx, kind, s)
		if err != nil {
			return err
		}
		pairOf[kind] = c
	}
	if err := n.sealed(ctx, pairOf[forefend].id); err != nil {
		return err
	}
	for burst := range burstsEach {
		for _, kind := range inTurn(pair + burst) {
			rate, err := n.burst(ctx, s, pairOf[kind])
			if err != nil {
				return err
			}
			rates[kind] = append(rates[kind], rate)
		}
	}
	for _, c := range pairOf {
		if err := n.remove(ctx, c.id); err != nil {
			return err
		}
	}
	return n.cpu.quiet(ctx)
}

// serving is a running server.
type serving struct {
	id     string
	pid    string
	groups []string // where its CPU time is charged
}

// serve starts a server and its network, waits until it answers, and moves its shim into a group of its own.
func (n *node) serve(ctx context.Context, kind runtimeKind, s server) (c serving, err error) {
	c.id = n.id(kind)
	if err := n.start(ctx, kind, s.image, c.id, nil, s.args...); err != nil {
		return c, err
	}
	shim, err := n.pid(kind.shim, "-id", c.id)
	if err != nil {
		return c, err
	}
	shimGroup := "bench.shim-" + c.id
	if err := n.cpu.place(shim, shimGroup); err != nil {
		return c, err
	}
	c.groups = []string{c.id, shimGroup}
	if kind == forefend {
		c.groups = append(c.groups, daemonGroup)
	}
	container, err := n.Client().LoadContainer(n.Context(ctx), c.id)
	if err != nil {
		return c, err
	}
	task, err := container.Task(n.Context(ctx), nil)
	if err != nil {
		return c, err
	}
	c.pid = strconv.Itoa(int(task.Pid()))
	if _, err := inNetwork(ctx, c.pid, "ip", "link", "set", "lo", "up"); err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := inNetwork(ctx, c.pid, s.ready[0], s.ready[1:]...)
		if err == nil {
			return c, nil
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return c, fmt.Errorf("%s does not answer: %w", c.id, err)
		}
	}
}

// burst loads a server once and returns requests per CPU second.
func (n *node) burst(ctx context.Context, s server, c serving) (float64, error) {
	before, err := n.charged(c)
	if err != nil {
		return 0, err
	}
	requests, err := s.load(ctx, c.pid)
	if err != nil {
		return 0, err
	}
	after, err := n.charged(c)
	return requests / (after - before), err
}

func (n *node) charged(c serving) (sum float64, err error) {
	for _, group := range c.groups {
		seconds, err := n.cpu.cpu(group)
		if err != nil {
			return 0, err
		}
		sum += seconds
	}
	return sum, nil
}

// inNetwork runs a program of this machine in the network namespace of a process.
func inNetwork(ctx context.Context, pid, name string, args ...string) (string, error) {
	return outputOf(exec.CommandContext(ctx, "nsenter", append([]string{"--net", "--target", pid, name}, args...)...))
}
