package rewrite

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// readonlyRoot leaves a spec without a root alone: runc refuses it.
func readonlyRoot(spec *specs.Spec, in Input) error {
	if f, ok := in.Effective.Lookup(policy.KeyReadonlyRoot); ok && spec.Root != nil {
		spec.Root.Readonly = f.Value == policy.Tight
	}
	return nil
}
