package rewrite

import (
	"maps"
	"strconv"
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
		"a weight":                 {`{"blockIO":{"weight":300},"unified":{"io.bfq.weight":"200"}}`, false, map[policy.Key]policy.Value{"io.weight": 300}},
		"io.bfq.weight over it":    {`{"blockIO":{"weight":300},"unified":{"io.bfq.weight":"200"}}`, true, map[policy.Key]policy.Value{"io.weight": 200}},
		"weights that say nothing": {`{"blockIO":{"weight":0},"unified":{"io.bfq.weight":"x","io.weight":"5000"}}`, true, map[policy.Key]policy.Value{}},
		"io.max is cgroup v2's":    {`{"unified":{"io.max":"8:0 rbps=3"}}`, false, map[policy.Key]policy.Value{}},
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
	if got, want := text(t, laid), `{"blockIO":{"weight":7,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5},{"major":8,"minor":16,"rate":6}],`+
		`"throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":4}]},"unified":{"io.max":"8:16 riops=3"}}`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	eff := decided(t, map[string]string{"io.read/8:16": "2Mi", "io.write/8:0": "1Mi", "io.write/8:32": "1Mi", "io.write/none": "5", "io.weight": "50"})
	if got, want := text(t, Resources(update, eff, true)), `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":0}],`+
		`"throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":4}]}}`; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if text(t, container)+text(t, update) != before {
		t.Error("an argument changed")
	}
}

// TestIOWeightOfASpec: a policy's weight takes the place of every file that says one, within what the kernel takes.
func TestIOWeightOfASpec(t *testing.T) {
	for name, c := range map[string]struct{ resources, weight, want string }{
		"no block IO":      {`{}`, "300", `{"blockIO":{"weight":300}}`},
		"beside rates":     {`{"blockIO":{"weight":7,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]}}`, "300", `{"blockIO":{"weight":300,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]}}`},
		"over cgroup v2's": {`{"unified":{"io.bfq.weight":"200","io.weight":"5000","io.max":"8:0 riops=3"}}`, "300", `{"blockIO":{"weight":300},"unified":{"io.max":"8:0 riops=3"}}`},
		"too much":         {`{}`, "5000", `{"blockIO":{"weight":1000}}`},
		"too little":       {`{}`, "0", `{"blockIO":{"weight":1}}`},
		"none":             {`{"blockIO":{"weight":300},"unified":{"io.bfq.weight":"200"}}`, "unlimited", `{"blockIO":{}}`},
		"none of none":     {`{}`, "unlimited", `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			r, v := parse[specs.LinuxResources](t, c.resources), policy.Unlimited
			if c.weight != "unlimited" {
				n, err := strconv.Atoi(c.weight)
				if err != nil {
					t.Fatal(err)
				}
				v = policy.Value(n)
			}
			writeIOWeight(r, v)
			if got := text(t, r); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
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
