package admit

import (
	"cmp"
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Bounds of what a decision keeps of a scan. Scans come from files that hostile images had a say in.
const (
	maxListed  = 16
	maxReached = 512
)

// Summary keeps of a scan what people and later decisions look at. Nil stays nil.
func Summary(s *evidence.Scan) *api.Scan {
	if s == nil {
		return nil
	}
	out := &api.Scan{
		Entry: s.Entry, Syscalls: first(s.Syscalls, maxReached), Programs: len(s.Programs), Unknown: first(s.Unknown, maxListed), Unfollowed: len(s.Unknown),
		Capabilities: first(s.Capabilities, maxListed), Ports: first(s.Ports, maxListed), Memory: s.Memory, Sized: s.Sized().Program, Sinks: first(s.Sinks, maxListed),
		Packages: s.Packages, Vulnerable: len(s.Vulnerabilities), Seconds: s.Seconds, Errors: first(s.Errors, maxListed),
	}
	reachable := slices.DeleteFunc(slices.Clone(s.Vulnerabilities), func(v evidence.Vulnerability) bool { return !v.Reachable })
	slices.SortStableFunc(reachable, func(x, y evidence.Vulnerability) int {
		return cmp.Or(cmp.Compare(y.Exploited, x.Exploited), cmp.Compare(y.Severity, x.Severity), cmp.Compare(x.ID, y.ID))
	})
	out.Vulnerabilities = first(reachable, maxListed)
	return out
}

func first[V any](list []V, n int) []V { return list[:min(len(list), n):min(len(list), n)] }
