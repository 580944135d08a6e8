package pdp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// siteRules are n rules as a site of many services would have: most by host, user or workload, some by path and network, one in
// a hundred with something that only CEL evaluates.
func siteRules(n int) []Rule {
	rules := make([]Rule, n)
	for i := range rules {
		r := Rule{Name: fmt.Sprintf("rule-%d", i), Source: "site.toml:1", Profile: flow.Profile{Encryption: flow.Encryption(i % 3), Dedicated: i%7 == 0}}
		switch i % 10 {
		case 0, 1, 2:
			r.When = fmt.Sprintf(`host == "s%d.example.com" || host.endsWith(".s%d.example.com")`, i, i)
		case 3, 4:
			r.When = fmt.Sprintf(`user == "user-%d" && data == "confidential"`, i)
		case 5:
			r.When = fmt.Sprintf(`workload == "app-%d" && operation == "write" && host.endsWith(".example.org")`, i)
		case 6:
			r.When = fmt.Sprintf(`host == "api.example.com" && path.startsWith("/v1/tenant-%d/")`, i)
		case 7:
			r.When = fmt.Sprintf(`service == "pay.v%d.Payments" && data != "public"`, i)
		case 8:
			r.When = fmt.Sprintf(`destination.within("10.%d.%d.0/24") && port in [443, 8443]`, i/250, i%250)
		case 9:
			r.When = fmt.Sprintf(`workload in ["job-%d", "batch-%d"] && risk > 60`, i, i)
			if i%100 == 99 {
				r.When = fmt.Sprintf(`host == "night-%d.example.com" && (now.getHours() < 6 || now.getHours() > 22)`, i)
			}
		}
		if r.When == "" || i%10 == 8 {
			r.When = fmt.Sprintf(`destination.within("10.%d.%d.0/24") && (port == 443 || port == 8443)`, i/250, i%250)
		}
		rules[i] = r
	}
	return rules
}

// siteContexts are requests of such a site: two in three meet a rule.
func siteContexts(n int) []flow.Context {
	c := chance{rand.New(rand.NewPCG(3, 4))}
	list := make([]flow.Context, n)
	for i := range list {
		x := flow.Context{
			Version: 1, Container: "0123456789abcdef", Namespace: "k8s.io", Workload: fmt.Sprintf("app-%d", c.IntN(1000)),
			Image: "registry.example.com/team/app:1.2", Risk: c.IntN(100), Protocol: flow.HTTP, User: fmt.Sprintf("user-%d", c.IntN(1000)),
			UserProof: flow.Verified, Data: c.of("public", "internal", "confidential"), Operation: c.of("read", "write"), Method: c.of("GET", "POST"),
			Host: fmt.Sprintf("s%d.example.com", c.IntN(1000)), Path: fmt.Sprintf("/v1/tenant-%d/things/%d", c.IntN(1000), c.IntN(1e6)),
			Destination: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(c.IntN(4)), byte(c.IntN(250)), 7}), 443),
		}
		switch c.IntN(4) {
		case 0:
			x.Host = "a." + x.Host
		case 1:
			x.Host = "api.example.com"
		case 2:
			x.Host = "www.example.org"
		}
		list[i] = x
	}
	return list
}

// BenchmarkDecide decides without a cache, over sets of rules of several sizes. p50 is the median of runs of 32 decisions.
func BenchmarkDecide(b *testing.B) {
	at := Moment{Now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), Load: 10}
	for _, n := range []int{10, 100, 1000, 10_000} {
		s, problems := Compile(siteRules(n), Options{Default: flow.Profile{Encryption: flow.Standard}, Data: "confidential"})
		if problems != nil {
			b.Fatal(problems)
		}
		contexts := siteContexts(256)
		matched := 0
		for i := range contexts {
			if len(s.Decide(&contexts[i], at).Matches) > 0 {
				matched++
			}
		}
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			const run = 32
			var took []time.Duration
			i := 0
			for b.Loop() {
				start := time.Now()
				for range run {
					sink = s.Decide(&contexts[i%len(contexts)], at)
					i++
				}
				took = append(took, time.Since(start)/run)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i), "ns/decision")
			b.ReportMetric(float64(matched)/float64(len(contexts)), "matched")
		})
	}
}

var sink flow.Decision
