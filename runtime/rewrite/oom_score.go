package rewrite

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// oomScore claims the score that the process is to start with.
func (c *claims) oomScore(p *specs.Process) {
	if p.OOMScoreAdj != nil {
		c.add(policy.KeyOOMScore, policy.OOMScore(*p.OOMScoreAdj))
	}
}

// oomScore sets the score that differs from the spec's.
func oomScore(spec *specs.Spec, in Input) error {
	p := process(spec)
	f, decided := in.Effective.Lookup(policy.KeyOOMScore)
	if !decided || p.OOMScoreAdj != nil && policy.OOMScore(*p.OOMScoreAdj) == f.Value {
		return nil
	}
	adj := policy.FromOOMScore(f.Value)
	p.OOMScoreAdj = &adj
	return nil
}
