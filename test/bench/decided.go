package main

import (
	"fmt"
	"os"
	"regexp"
	"time"
)

// decision is the daemon's own line about one: which container, which sources were late, how long it took from the
// decoded request to the answer.
var decision = regexp.MustCompile(`msg="forefend: admit" .*\bid=(\S+) late=(\S+) .*\btook="?([^\s"]+)`)

// decided reads from the daemon's log how long the decisions about real containers took, in milliseconds, and how many
// went without one of their sources.
func (n *node) decided(ids []string) (took []float64, late int, err error) {
	text, err := os.ReadFile(n.DaemonLog())
	if err != nil {
		return nil, 0, err
	}
	took, late, err = decisions(string(text), n.Namespace, ids)
	if err == nil && len(took) != len(ids) {
		err = fmt.Errorf("the daemon's log has %d decisions about %d containers", len(took), len(ids))
	}
	return took, late, err
}

func decisions(log, namespace string, ids []string) (took []float64, late int, err error) {
	wanted := make(map[string]bool)
	for _, id := range ids {
		wanted[namespace+"/"+id] = true
	}
	for _, m := range decision.FindAllStringSubmatch(log, -1) {
		if !wanted[m[1]] {
			continue
		}
		d, err := time.ParseDuration(m[3])
		if err != nil {
			return nil, 0, fmt.Errorf("the daemon's log: %w", err)
		}
		took = append(took, float64(d.Nanoseconds())/1e6)
		if m[2] != "none" {
			late++
		}
	}
	return took, late, nil
}
