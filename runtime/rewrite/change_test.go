package rewrite

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

func TestChange(t *testing.T) {
	before := decided(t, map[string]string{"memory": "64Mi", "cpu.shares": "512", "memory.swap": "1Gi", "pids": "5"})
	after := decided(t, map[string]string{"pids": "7"})
	r := Change(nil, before, after, false, false)
	if *r.Memory.Limit != -1 || *r.Memory.Swap != -1 || *r.CPU.Shares != defaultShares || *r.Pids.Limit != 7 || r.CPU.Quota != nil || r.Memory.Reservation != nil {
		t.Errorf("%s", text(t, r))
	}
	// What the client asks for stays, and a runc that remembers hears of every limit.
	asked := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Shares: new(uint64)}, Memory: &specs.LinuxMemory{Limit: limitOf(5)}}
	r = Change(asked, after, after, true, false)
	if r.CPU.Cpus != "0" || *r.Memory.Limit != 5 || *r.CPU.Quota != -1 || *r.Memory.Reservation != -1 || r.Memory.Swap != nil || *r.CPU.Shares != 0 || *r.Pids.Limit != 7 {
		t.Errorf("%s", text(t, r))
	}
	if v, ok := readMemory(Change(nil, policy.Effective{}, policy.Effective{}, false, true), true); ok {
		t.Errorf("nothing is decided, memory %d", v)
	}
}
