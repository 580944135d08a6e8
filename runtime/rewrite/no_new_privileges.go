package rewrite

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

func noNewPrivileges(spec *specs.Spec, in Input) error {
	if f, ok := in.Effective.Lookup(policy.KeyNoNewPrivileges); ok {
		process(spec).NoNewPrivileges = f.Value == policy.Tight
	}
	return nil
}
