package rewrite

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

func maskedPaths(spec *specs.Spec, in Input) error {
	return paths(spec, in.Effective.Members(policy.KeyMaskedPaths),
		func(l *specs.Linux) *[]string { return &l.MaskedPaths })
}

func readonlyPaths(spec *specs.Spec, in Input) error {
	return paths(spec, in.Effective.Members(policy.KeyReadonlyPaths),
		func(l *specs.Linux) *[]string { return &l.ReadonlyPaths })
}

// paths edits one list of paths: members decided tight are in it afterwards,
// members decided loose are not, the others stay as the spec has them.
func paths(spec *specs.Spec, members map[string]policy.Value, list func(*specs.Linux) *[]string) error {
	var before []string
	if spec.Linux != nil {
		before = *list(spec.Linux)
	}
	have := make(map[string]bool, len(before))
	for _, p := range before {
		have[p] = true
	}
	var add []string
	remove := make(map[string]bool)
	for p, v := range members {
		switch {
		case v == policy.Tight && !have[p]:
			add = append(add, p)
		case v != policy.Tight && have[p]:
			remove[p] = true
		}
	}
	if len(add)+len(remove) == 0 {
		return nil
	}
	if len(add) > 0 && !ownNamespace(spec, specs.MountNamespace) {
		return fmt.Errorf("%.100s: a container in the host's mount namespace has no paths of its own: %w", slices.Min(add), errdefs.ErrFailedPrecondition)
	}
	slices.Sort(add)
	kept := slices.DeleteFunc(slices.Clone(before), func(p string) bool { return remove[p] })
	*list(linux(spec)) = append(kept, add...)
	return nil
}

// ownNamespace reports whether the spec names a namespace of that type at all,
// new or joined.
func ownNamespace(spec *specs.Spec, t specs.LinuxNamespaceType) bool {
	return namespace(spec, t) != nil
}

func namespace(spec *specs.Spec, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	if spec.Linux == nil {
		return nil
	}
	for i := range spec.Linux.Namespaces {
		if ns := &spec.Linux.Namespaces[i]; ns.Type == t {
			return ns
		}
	}
	return nil
}
