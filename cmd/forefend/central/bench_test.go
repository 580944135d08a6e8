package central

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// site answers by a thousand rules, as the daemon does.
func site(b *testing.B, r *rig) {
	var rules []pdp.Rule
	for i := range 1000 {
		rules = append(rules, pdp.Rule{Name: fmt.Sprint("rule-", i), Source: "site.toml:1", When: fmt.Sprintf(`host == "s%d.example.com" && operation == "read"`, i),
			Profile: flow.Profile{Encryption: flow.Encryption(i % 3)}})
	}
	set, problems := pdp.Compile(rules, pdp.Options{Default: flow.Profile{Encryption: flow.Standard}, Data: "internal"})
	if problems != nil {
		b.Fatal(problems)
	}
	r.desk.answer = func(d *flow.Decision, q *api.Question) {
		epoch := d.Epoch
		*d = set.Decide(&q.Context, pdp.Moment{Now: time.Now(), Load: q.Load})
		d.Version, d.Epoch = flow.Version, epoch
	}
}

// request is one of the i-th host's, as an agent and its node describe it.
func request(i int) *flow.Context {
	return &flow.Context{
		Version: flow.Version, Container: "0123456789abcdef", Namespace: "k8s.io", Workload: "registry.example.com/team/app", Image: "registry.example.com/team/app:1.2",
		Protocol: flow.HTTP, User: "alice", UserProof: flow.Verified, Data: "internal", Operation: flow.Read, Method: "GET",
		Host: fmt.Sprintf("s%d.example.com", i), Path: "/v1/things/7",
	}
}

// BenchmarkRemote decides over loopback TLS by 1000 rules. p50 of cached decisions is the median of runs of 32.
func BenchmarkRemote(b *testing.B) {
	r := newRig(b, []string{"*"}, 10_000_000)
	site(b, r)
	c, states := r.client(r.dialer("n"), 10*time.Second, time.Minute)
	await(b, states, "connected", connected)
	b.Run("cached", func(b *testing.B) {
		const run = 32
		contexts := make([]*flow.Context, 256)
		for i := range contexts {
			contexts[i] = request(i)
			if _, err := c.Decide(b.Context(), contexts[i], 0, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportAllocs()
		now := time.Now()
		var took []time.Duration
		for i := 0; b.Loop(); {
			began := time.Now()
			for range run {
				if _, err := c.Decide(b.Context(), contexts[i%len(contexts)], 0, now); err != nil {
					b.Fatal(err)
				}
				i++
			}
			took = append(took, time.Since(began)/run)
		}
		report(b, took)
	})
	b.Run("uncached", func(b *testing.B) {
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			x := request(i)
			x.Host = fmt.Sprintf("s%d.example.com", i%1000)
			x.User = fmt.Sprint(i) // of no matter to the rules
			began := time.Now()
			d, err := c.batches.ask(b.Context(), api.Question{Context: *x})
			took = append(took, time.Since(began))
			if err != nil || d.Reason == "" {
				b.Fatal(d, err)
			}
		}
		report(b, took)
	})
	b.Run("uncached/at-once=64", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				if _, err := c.batches.ask(b.Context(), api.Question{Context: *request(i % 1000)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}
