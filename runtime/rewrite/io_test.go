package rewrite

import (
	"maps"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

func TestIOClaims(t *testing.T) {
	const lists = `"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5},{"major":8,"minor":0,"rate":7},
		{"major":8,"minor":16,"rate":18446744073709551615},{"major":9,"minor":0,"rate":0},{"major":-1,"minor":0,"rate":3},{"major":8,"minor":9999999,"rate":3}],
		"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":9}]}`
	for name, c := range map[string]struct {
		resources string
		unified   bool
		want      map[policy.Key]policy.Value
	}{
		"none": {`{}`, true, map[policy.Key]policy.Value{}},
		"lists": {`{` + lists + `}`, false, map[policy.Key]policy.Value{
			"io.read/8:0": 7, "io.read/8:16": policy.Unlimited, "io.write/8:0": 9}},
		"io.max is cgroup v2's": {`{"unified":{"io.max":"8:0 rbps=3"}}`, false, map[policy.Key]policy.Value{}},
		"io.max over the lists": {`{` + lists + `,"unified":{"io.max":"\n8:0 wbps=max rbps=3 rbps=4\n8:16 rbps=0 wiops=5\nsda rbps=5\n8:32 rbps=x wbps=18446744073709551615"}}`, true,
			map[policy.Key]policy.Value{"io.read/8:0": 4, "io.read/8:16": policy.Unlimited, "io.write/8:0": policy.Unlimited, "io.write/8:32": policy.Unlimited}},
	} {
		t.Run(name, func(t *testing.T) {
			got := said(ResourceClaims(parse[specs.LinuxResources](t, c.resources), c.unified))
			if !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestIOOfUpdates: an update's rates are laid over the container's, and what runc is sent has none that the policy decides.
func TestIOOfUpdates(t *testing.T) {
	container := parse[specs.LinuxResources](t, `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5},{"major":8,"minor":16,"rate":5}],
		"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":9}]},"unified":{"io.max":"8:16 rbps=2 riops=3"}}`)
	update := parse[specs.LinuxResources](t, `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":6},{"major":8,"minor":0,"rate":0}],
		"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":18446744073709551615},{"major":8,"minor":16,"rate":4}],"weight":7}}`)
	before := text(t, container) + text(t, update)
	laid := Overlay(container, update)
	if got, want := text(t, laid), `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5},{"major":8,"minor":16,"rate":6}],`+
		`"throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":4}]},"unified":{"io.max":"8:16 riops=3"}}`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	eff := decided(t, map[string]string{"io.read/8:16": "2Mi", "io.write/8:0": "1Mi", "io.write/8:32": "1Mi", "io.write/none": "5"})
	if got, want := text(t, Resources(update, eff, true)), `{"blockIO":{"weight":7,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":0}],`+
		`"throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":4}]}}`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if text(t, container)+text(t, update) != before {
		t.Error("an argument changed")
	}
}

// TestRateOfNothing: a value no scale parses still becomes a rate that cgroup v1 does not take for none.
func TestRateOfNothing(t *testing.T) {
	r := new(specs.LinuxResources)
	throttles[0].write(r, policy.Disk{Major: 8}, -3)
	if got := text(t, r); got != `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}]}}` {
		t.Errorf("got %s", got)
	}
}
