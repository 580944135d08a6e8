package replay

import (
	"testing"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// TestStrays: a closed egress would have cut a run off that reached others than it allows; a name speaks for its addresses.
func TestStrays(t *testing.T) {
	closed := []policy.Field{
		{Key: policy.KeyEgressDefault, Value: policy.Tight},
		{Key: policy.KeyEgress, Value: policy.Loose, Names: []string{"192.0.2.0/24", "www.example:443", "*.cdn.example"}},
		{Key: policy.KeyEgress, Value: policy.Tight, Names: []string{"198.51.100.9"}},
	}
	for name, c := range map[string]struct {
		fields  []policy.Field
		reached []string
		want    bool
	}{
		"open":                       {nil, []string{"tcp/198.51.100.1:80"}, false},
		"offline":                    {[]policy.Field{{Key: policy.KeyNetwork, Value: policy.Tight}}, []string{"tcp/192.0.2.1:80"}, true},
		"allowed":                    {closed, []string{"tcp/192.0.2.1:80", "udp/192.0.2.53:53"}, false},
		"another address":            {closed, []string{"tcp/192.0.2.1:80", "tcp/198.51.100.9:80"}, true},
		"an address of a known name": {closed, []string{"tcp/203.0.113.1:443", "tcp/www.example:443", "tcp/a.cdn.example:80"}, false},
		"another name":               {closed, []string{"tcp/www.example:443", "tcp/evil.example:443"}, true},
		"another port of a name":     {closed, []string{"tcp/www.example:25"}, true},
	} {
		o := &workload.Observation{Destinations: map[string]uint64{}}
		for _, d := range c.reached {
			o.Destinations[d] = 1
		}
		if got := strays(o, policy.Effective{Fields: c.fields}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
