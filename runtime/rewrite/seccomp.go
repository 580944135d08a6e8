package rewrite

import "github.com/opencontainers/runtime-spec/specs-go"

// seccomp replaces the profile by the compiled one.
func seccomp(spec *specs.Spec, in Input) error {
	if in.Seccomp != nil {
		linux(spec).Seccomp = in.Seccomp
	}
	return nil
}
