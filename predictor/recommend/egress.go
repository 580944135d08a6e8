package recommend

import (
	"fmt"
	"net"
	"slices"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Egress returns the claims that let a run of mode enforce begin contacts only with those that earlier runs reached, where the next run needs
// anybody else with at most the probability that the site accepts (Input.UnseenEgress); else, where that was asked for, why not. listed
// says no to a destination that earlier runs reached and a threat feed lists by now.
//
// The probability is (others reached + 1) / (runs + 2). Runs of one workload taken in any order find new destinations at a rate that only
// falls, so that the average rate so far is an upper bound of the next run's; with none reached this is the rule of succession.
func Egress(p workload.Prediction, in Input, listed func(destination string) bool) (claims []policy.Claim, why string) {
	bound := in.UnseenEgress
	if !in.Enforce || !(bound > 0) {
		return nil, ""
	}
	if !itself(p.Level) || p.Watched < 1 {
		return nil, "egress stays open: no run of this workload was watched yet"
	}
	if p.More {
		return nil, fmt.Sprintf("egress stays open: it reaches more than the %d destinations that are remembered", len(p.Destinations))
	}
	unseen := float64(len(p.Destinations)+1) / float64(p.Watched+2)
	reached := fmt.Sprintf("destinations reached in %s: %d, so the next one reaches another with probability %.2g at most", runs(p.Watched), len(p.Destinations), unseen)
	if unseen > bound {
		return nil, fmt.Sprintf("egress stays open and is watched: %s, the bound is %.2g", reached, bound)
	}
	r := recommender{source: fmt.Sprintf("history %s, %s", p.Level, runs(p.Watched))}
	r.claim(policy.KeyEgressDefault, policy.Tight, "enforce: %s", reached)
	known := reachedBut(p.Destinations, listed)
	for _, name := range known {
		r.claim(policy.KeyEgress.Member(name), policy.Loose, "reached by earlier runs")
	}
	for _, name := range reachedBut(askedFor(in.NameServers), listed) {
		if !slices.Contains(known, name) {
			r.claim(policy.KeyEgress.Member(name), policy.Loose, "its resolv.conf names it")
		}
	}
	return r.claims, ""
}

// askedFor are the destinations of queries for names.
func askedFor(servers []string) (destinations []string) {
	for _, server := range servers {
		destinations = append(destinations, "udp/"+net.JoinHostPort(server, "53"))
	}
	return destinations
}

// needed are the members of egress that a run is known to need.
func needed(k Known) []string {
	return reached(slices.Concat(k.Prediction.Destinations, askedFor(k.NameServers)))
}

// reachedBut are the members of egress that allow destinations but for the listed ones.
func reachedBut(destinations []string, listed func(string) bool) []string {
	var known []string
	for _, d := range destinations {
		if !is(listed, d) {
			known = append(known, d)
		}
	}
	return reached(known)
}
