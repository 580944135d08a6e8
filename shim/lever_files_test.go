package shim

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

func effective(values map[policy.Key]policy.Value) policy.Effective {
	var claims []policy.Claim
	for k, v := range values {
		claims = append(claims, policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Operator, Source: "test"}})
	}
	return policy.Merge(policy.Input{Claims: claims})
}

func TestFileChange(t *testing.T) {
	mask, protect := policy.KeyMaskedPaths.Member, policy.KeyReadonlyPaths.Member
	before := effective(map[policy.Key]policy.Value{
		mask("/a"): policy.Tight, mask("/b"): policy.Tight, mask("/c"): policy.Loose, protect("/p"): policy.Tight,
	})
	after := effective(map[policy.Key]policy.Value{
		mask("/a"): policy.Tight, mask("/b"): policy.Loose, mask("/c"): policy.Tight, mask("/d"): policy.Tight,
		protect("/q"): policy.Tight, policy.KeyReadonlyRoot: policy.Tight,
	})
	c := fileChange(before, after)
	if !slices.Equal(c.Mask, []string{"/c", "/d"}) || !slices.Equal(c.Unmask, []string{"/b"}) ||
		!slices.Equal(c.Protect, []string{"/q"}) || !slices.Equal(c.Release, []string{"/p"}) || c.Root == nil || !*c.Root {
		t.Errorf("%+v", c)
	}
	if c := fileChange(after, before); c.Root == nil || *c.Root {
		t.Errorf("back: %+v", c)
	}
	if c := fileChange(after, after); c.Root != nil || len(c.Mask)+len(c.Unmask)+len(c.Protect)+len(c.Release) != 0 {
		t.Errorf("nothing has changed: %+v", c)
	}
}

func TestFilesOfOthersAreLeftAlone(t *testing.T) {
	host, joined := container{}, container{}
	joined.spec.Linux = &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace, Path: "/proc/1/ns/mnt"}}}
	unknown := container{spec: specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}}}
	after := effective(map[policy.Key]policy.Value{policy.KeyReadonlyRoot: policy.Tight})
	for _, c := range []*container{&host, &joined, &unknown} {
		if _, err := (filesLever{}).move(t.Context(), c, policy.Effective{}, after, manner{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%+v: %v", c.spec.Linux, err)
		}
	}
}
