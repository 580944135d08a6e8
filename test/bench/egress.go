package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Egress is measured in a network namespace of its own with a link to one of servers (egress_inside.go): there the
// interceptor, with a thousand rules, takes turns with haproxy and nginx, which decide nothing. What a proxy costs is the
// CPU time of its process, so that load of others on the machine weighs little.

// turns are what was measured of one proxy, a sample for each round.
type turns struct {
	Request   []float64 `json:"request"`    // CPU for each kept-alive HTTP request, µs
	Added     []float64 `json:"added"`      // p50 of one client's requests, less that without a proxy, µs; a sample for each turn
	Short     []float64 `json:"short"`      // CPU for each connection with one request, µs
	Bulk      []float64 `json:"bulk"`       // CPU for each GB, s
	BulkSpeed []float64 `json:"bulk_speed"` // GB/s
	Idle      float64   `json:"idle"`       // private memory of an idle connection, bytes
}

// measuredInside has a part measure in network namespaces of its own, and returns what it found of each proxy.
func measuredInside[T any](ctx context.Context, b *bench, part string, more ...string) (map[string]T, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{insideCommand, part, fmt.Sprint(min(b.rounds, 9))}, more...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var of map[string]T
	return of, json.Unmarshal(out, &of)
}

// measureEgress compares the interceptor with the proxies that are installed.
func measureEgress(ctx context.Context, b *bench) ([]figure, error) {
	of, err := measuredInside[turns](ctx, b, "egress")
	if err != nil {
		return nil, err
	}
	ours, ok := of[egressOurs]
	if !ok {
		return nil, errors.New("nothing was measured")
	}
	idle := alone("idle intercepted connection, private memory (KiB)", fmt.Sprintf("%.1f", ours.Idle/1024), []float64{ours.Idle})
	figures := []figure{idle.hold(target{must: 24, aim: 8, unit: " KiB"}, ours.Idle/1024)}
	ratio := func(peer, ours float64) float64 { return ours / peer }
	for _, row := range []struct {
		name   string
		of     func(turns) []float64
		format string
		peers  []string
		target target
	}{
		{"HTTP/1.1 keep-alive, 1000 rules, CPU for a request (µs)", func(t turns) []float64 { return t.Request }, "%.2f", []string{"haproxy", "nginx"}, target{must: 1.5, aim: 0.8, unit: "×"}},
		{"… added p50 (µs)", func(t turns) []float64 { return t.Added }, "%.0f", []string{"haproxy", "nginx"}, target{must: 1, aim: 0.7, unit: "×"}},
		{"bulk, CPU for a GB (s)", func(t turns) []float64 { return t.Bulk }, "%.3f", []string{"nginx"}, target{must: 0.8, aim: 0.6, unit: "×"}},
		{"bulk, GB/s", func(t turns) []float64 { return t.BulkSpeed }, "%.2f", []string{"nginx"}, target{must: 1.1, aim: 1.5, atLeast: true, unit: "×"}},
		{"short connections, CPU for one (µs)", func(t turns) []float64 { return t.Short }, "%.1f", []string{"haproxy"}, target{must: 1.8, aim: 1, unit: "×"}},
	} {
		mine := row.of(ours)
		best, name := []float64(nil), ""
		for _, peer := range row.peers {
			theirs, ok := of[peer]
			if !ok || len(row.of(theirs)) == 0 {
				continue
			}
			if best == nil || median(row.of(theirs)) < median(best) {
				best, name = row.of(theirs), peer
			}
		}
		if best == nil {
			figures = append(figures, alone(row.name+"; no peer is installed", fmt.Sprintf(row.format, median(mine)), mine))
			continue
		}
		f := paired(row.name+" against "+name, row.format, "%.2f×", best, mine, ratio)
		figures = append(figures, f.hold(row.target, f.Value))
	}
	return figures, nil
}
