package recommend

import (
	"fmt"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// TestEgressLearned: a mode closes egress by itself only with evidence, and never what a feed lists.
func TestEgressLearned(t *testing.T) {
	settled := workload.Prediction{
		Runs: 40, Watched: 40, Level: workload.LevelDigestCommand.String(),
		Destinations: []string{"tcp/192.0.2.1:443", "tcp/192.0.2.66:443", "tcp/www.example:443"},
	}
	enforce := Input{Enforce: true, UnseenEgress: 0.1}
	listed := func(d string) bool { return d == "tcp/192.0.2.66:443" }
	claims, why := Egress(settled, enforce, listed)
	var got []string
	for _, c := range claims {
		got = append(got, fmt.Sprintf("%s %s: %s", c.Key, c.Key.Format(c.Value), c.Origin.Reason))
		if c.Origin.Author != policy.Prediction || !strings.Contains(c.Origin.Source, "40 runs") {
			t.Errorf("%s is %s's, %s", c.Key, c.Origin.Author, c.Origin.Source)
		}
	}
	want := []string{
		"egress.default closed: enforce: destinations reached in 40 runs: 3, so the next one reaches another with probability 0.095 at most",
		"egress/192.0.2.1 allowed: reached by earlier runs", "egress/www.example:443 allowed: reached by earlier runs",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || why != "" {
		t.Errorf("%s\n%q\nwant %s", strings.Join(got, "\n"), why, strings.Join(want, "\n"))
	}
	enforce.NameServers = []string{"192.0.2.1", "192.0.2.53", "2001:db8::53", "192.0.2.67"} // whom musl asks nobody sees
	claims, _ = Egress(settled, enforce, func(d string) bool { return d == "udp/192.0.2.67:53" || listed(d) })
	got = nil
	for _, c := range claims[3:] {
		got = append(got, fmt.Sprintf("%s %s: %s", c.Key, c.Key.Format(c.Value), c.Origin.Reason))
	}
	if want := "egress/192.0.2.53 allowed: its resolv.conf names it\negress/2001:db8::53 allowed: its resolv.conf names it"; strings.Join(got, "\n") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, "\n"), want)
	}
	for name, c := range map[string]struct {
		change func(*workload.Prediction, *Input)
		why    string
	}{
		"adaptive":           {func(_ *workload.Prediction, in *Input) { in.Enforce = false }, ""},
		"nobody wants it":    {func(_ *workload.Prediction, in *Input) { in.UnseenEgress = 0 }, ""},
		"thin evidence":      {func(p *workload.Prediction, _ *Input) { p.Watched = 10 }, "destinations reached in 10 runs: 3, so the next one reaches another with probability 0.33 at most, the bound is 0.1"},
		"none was watched":   {func(p *workload.Prediction, _ *Input) { p.Watched = 0 }, "no run of this workload was watched yet"},
		"the same binary":    {func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelExecutable.String() }, "no run of this workload"},
		"too many to be all": {func(p *workload.Prediction, _ *Input) { p.More = true }, "more than the 3 destinations"},
	} {
		p, in := settled, enforce
		c.change(&p, &in)
		if claims, why := Egress(p, in, nil); len(claims) > 0 || !strings.Contains(why, c.why) || c.why == "" && why != "" {
			t.Errorf("%s: %v, %q", name, claims, why)
		}
	}
}
