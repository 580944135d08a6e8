package admit

import (
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/workload"
)

// Requested is what a request asks for in its spec and annotations, the least of
// what it says. Annotations that are malformed ask for nothing here: the decision refuses them.
func Requested(req api.AdmitRequest, unified bool) workload.Requested {
	amendments, _ := policy.ParseAnnotations(req.Facts.Annotations)
	least := make(map[policy.Key]policy.Value)
	for _, c := range append(rewrite.Claims(&req.Spec, unified), amendments...) {
		if v, known := least[c.Key]; c.Value > 0 && c.Value != policy.Unlimited && (!known || c.Value < v) {
			least[c.Key] = c.Value
		}
	}
	return workload.Requested{
		Memory: int64(least[policy.KeyMemory]), CPUs: float64(least[policy.KeyCPUs]) / 1000, PIDs: int64(least[policy.KeyPIDs]),
	}
}
