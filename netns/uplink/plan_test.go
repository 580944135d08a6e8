package uplink

import (
	"errors"
	"fmt"
	"testing"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// TestPlan: a plan is a text that one can read.
func TestPlan(t *testing.T) {
	const want = `qdisc htb f0e: default 0x12
class f0e:1 parent f0e:0 prio 0 rate 20000000 ceil 20000000 burst 50000 cburst 25000
class f0e:10 parent f0e:1 prio 0 rate 4000000 ceil 20000000 burst 10000 cburst 25000
queue f1e: parent f0e:10 fq_codel, or limit 131072
class f0e:11 parent f0e:1 prio 1 rate 3000000 ceil 20000000 burst 7500 cburst 25000
queue f1f: parent f0e:11 fq_codel, or limit 131072
class f0e:12 parent f0e:1 prio 2 rate 2000000 ceil 20000000 burst 6400 cburst 25000
queue f20: parent f0e:12 fq_codel, or limit 131072
class f0e:13 parent f0e:1 prio 3 rate 1000000 ceil 20000000 burst 6400 cburst 25000
queue f21: parent f0e:13 fq_codel, or limit 131072
filter protocol 0x0800 pref 1 match 00b80000/00fc0000 at 0 flowid f0e:10
filter protocol 0x0800 pref 1 match 00480000/00fc0000 at 0 flowid f0e:11
filter protocol 0x0800 pref 1 match 00040000/00fc0000 at 0 flowid f0e:13
filter protocol 0x86dd pref 2 match 0b800000/0fc00000 at 0 flowid f0e:10
filter protocol 0x86dd pref 2 match 04800000/0fc00000 at 0 flowid f0e:11
filter protocol 0x86dd pref 2 match 00400000/0fc00000 at 0 flowid f0e:13
`
	if got := planOf(20_000_000 / 8).String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestPlanOfAnyRate: no class is without a rate, and the certain parts leave something to be given away.
func TestPlanOfAnyRate(t *testing.T) {
	seen := make(map[string]bool)
	for _, o := range order {
		seen[o.class] = true
	}
	for _, class := range flow.QoSClasses {
		if !seen[class] {
			t.Errorf("class %s has no place", class)
		}
	}
	for _, rate := range []int64{1_000_000 / 8, 10_000_000 / 8, 950_000_000 / 8, 100_000_000_000 / 8, 1000_000_000_000 / 8} {
		p := planOf(rate)
		var certain int64
		for i, c := range p.classes {
			if k := c.of(1); k.Rate == 0 || k.Ceil != uint64(rate) || k.Buffer == 0 || k.Cbuffer == 0 {
				t.Errorf("rate %d: class %+v", rate, c)
			}
			if i > 1 && c.rate >= p.classes[i-1].rate {
				t.Errorf("rate %d: the certain parts do not fall", rate)
			}
			if i > 0 {
				certain += c.rate
			}
		}
		if certain >= rate {
			t.Errorf("rate %d: %d of it is promised", rate, certain)
		}
	}
}

// TestStatusOf: what is in the way is told apart, however it is wrapped.
func TestStatusOf(t *testing.T) {
	for want, err := range map[string]error{
		api.UplinkKept: nil, api.UplinkForeign: errForeign, api.UplinkAbsent: errNoDevice, api.UplinkFailed: errors.New("no buffer space"),
		api.UplinkUnsupported: fmt.Errorf("the kernel has no sch_htb: %w: %w", errors.New("no such file"), errors.ErrUnsupported),
	} {
		if err != nil {
			err = fmt.Errorf("up0: %w", err)
		}
		if got, why := statusOf(err); got != want || (why == "") != (err == nil) {
			t.Errorf("%v is %s, %q", err, got, why)
		}
	}
}
