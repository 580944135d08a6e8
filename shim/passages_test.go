package shim

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

// What an agent tells of contacts by name is in the next observation, if it is a name.
func TestNamedPassages(t *testing.T) {
	var p passages
	p.name(map[string]uint64{
		"tcp/www.example:443": 2, "tcp/www.example": 1, "udp/www.example:443": 1, "tcp/192.0.2.1:443": 1, "www.example:443": 1, "tcp/A b:1": 1,
		"tcp/" + strings.Repeat("a.", 70) + "example:443": 1,
	})
	p.name(map[string]uint64{"tcp/www.example:443": 1})
	o := workload.Observation{Destinations: map[string]uint64{"tcp/192.0.2.1:443": 1}}
	p.describe(&o)
	if want := map[string]uint64{"tcp/192.0.2.1:443": 1, "tcp/www.example:443": 3}; !maps.Equal(o.Destinations, want) {
		t.Errorf("%v", o.Destinations)
	}
	for i := range 2 * workload.MaxDestinations {
		p.name(map[string]uint64{fmt.Sprintf("tcp/h%d.example:1", i): 1})
	}
	o = workload.Observation{}
	if p.describe(&o); len(o.Destinations) != workload.MaxDestinations/2 {
		t.Errorf("%d names", len(o.Destinations))
	}
}
