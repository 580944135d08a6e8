package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forefend.dev/forefend/runtime/policy"
)

// Configurations of the two nodes that are compared: what Forefend does about a running container, and nothing of it.
const (
	liveConfig  = "[airbag]\nenabled = true\n[phases]\nruns = 4\nserved = \"500ms\"\nquiet = \"500ms\"\n"
	stillConfig = "[airbag]\nenabled = false\n[phases]\nruns = 0\n"
)

// measureLive loads servers under Forefend with phases and airbag, and in turn under Forefend without them.
func measureLive(ctx context.Context, b *bench) (figures []figure, err error) {
	var nodes [2]*node // without, with
	defer func() {
		for _, n := range nodes {
			if n != nil {
				err = errors.Join(err, n.close())
			}
		}
	}()
	for i, config := range []string{stillConfig, liveConfig} {
		if nodes[i], err = openNodeWith(ctx, config, nil, "redis", "nginx"); err != nil {
			return nil, err
		}
	}
	pairs := min(mostPairs, (b.rounds+burstsEach-1)/burstsEach)
	for _, s := range servers {
		rates, supervisor, inForce, err := loadLive(ctx, nodes, s, pairs)
		if err != nil {
			return figures, fmt.Errorf("%s: %w", s.image, err)
		}
		f := paired(s.image+" with "+inForce+" (requests per CPU s)", "%.0f", "x%.3f", rates[0], rates[1], ratio)
		f.Stock, f.Forefend = f.Stock+" without", f.Forefend+" with"
		figures = append(figures, f.hold(target{must: 0.98, aim: 1, atLeast: true}, f.Value),
			alone(s.image+" under load, shim's CPU (% of a core)", fmt.Sprintf("%.2f", median(supervisor)), supervisor))
	}
	return figures, nil
}

// loadLive returns requests per CPU second without and with, and what the shim of the latter took of a core while its server was loaded, in per cent.
func loadLive(ctx context.Context, nodes [2]*node, s server, pairs int) (rates [2][]float64, supervisor []float64, inForce string, err error) {
	for _, n := range nodes {
		if err := n.warm(ctx, s); err != nil {
			return rates, nil, "", err
		}
	}
	for pair := range pairs {
		var pairOf [2]serving
		for i, n := range nodes {
			if pairOf[i], err = n.serve(ctx, forefend, s); err != nil {
				return rates, nil, "", err
			}
		}
		if inForce, err = nodes[1].adapts(ctx, pairOf[1].id); err != nil {
			return rates, nil, "", err
		}
		for burst := range burstsEach {
			for turn := range nodes {
				i := (turn + pair + burst) % len(nodes)
				began, shim := time.Now(), pairOf[i].groups[1]
				before, err := nodes[i].cpu.cpu(shim)
				if err != nil {
					return rates, nil, "", err
				}
				rate, err := nodes[i].burst(ctx, s, pairOf[i])
				if err != nil {
					return rates, nil, "", err
				}
				rates[i] = append(rates[i], rate)
				after, err := nodes[i].cpu.cpu(shim)
				if err != nil {
					return rates, nil, "", err
				}
				if i == 1 {
					supervisor = append(supervisor, 100*(after-before)/time.Since(began).Seconds())
				}
			}
		}
		for i, n := range nodes {
			if err := n.remove(ctx, pairOf[i].id); err != nil {
				return rates, nil, "", err
			}
		}
	}
	return rates, supervisor, inForce, nil
}

// adapts says what is in force on a container that serves. A server has no predicted memory limit where static analysis cannot follow what it executes.
func (n *node) adapts(ctx context.Context, id string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		d, err := n.explain(ctx, id)
		if err != nil {
			return "", err
		}
		f, ok := d.Effective.Lookup(policy.KeyMemory)
		airbag := ok && f.Author == policy.Prediction && d.Airbag != nil
		switch phases := len(d.Effective.Members(policy.KeyServing)) > 0; {
		case phases && airbag:
			return "phases and airbag", nil
		case phases:
			return "phases", nil
		}
		if wait(ctx, 100*time.Millisecond) != nil {
			return "", fmt.Errorf("%s has no policy of a serving workload: %q", id, d.Notes)
		}
	}
}
