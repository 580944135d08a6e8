package admit

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/workload"
)

func TestRequested(t *testing.T) {
	spec := func(memory, quota, pids int64) *specs.LinuxResources {
		period := uint64(100_000)
		return &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Pids: &specs.LinuxPids{Limit: &pids},
		}
	}
	for name, c := range map[string]struct {
		resources   *specs.LinuxResources
		annotations map[string]string
		want        workload.Requested
	}{
		"nothing":             {&specs.LinuxResources{}, nil, workload.Requested{}},
		"a spec":              {spec(1<<30, 150_000, 64), nil, workload.Requested{Memory: 1 << 30, CPUs: 1.5, PIDs: 64}},
		"no limit":            {spec(-1, -1, -1), nil, workload.Requested{}},
		"an annotation":       {spec(1<<30, 0, -1), map[string]string{"forefend.dev/memory": "64Mi"}, workload.Requested{Memory: 64 << 20}},
		"a looser annotation": {spec(1<<30, 0, -1), map[string]string{"forefend.dev/memory": "64Gi"}, workload.Requested{Memory: 1 << 30}},
		"malformed":           {spec(0, 0, -1), map[string]string{"forefend.dev/memory": "x"}, workload.Requested{}},
	} {
		in := asked(t, c.annotations)
		in.Request.Spec.Linux.Resources = c.resources
		if got := Requested(in.Request, false); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
