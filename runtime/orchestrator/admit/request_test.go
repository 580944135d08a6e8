package admit

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// clock is the time of every decision in these tests.
var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// specFromContainerd is what `ctr run` makes of an image, as the shim sends it: with the default capabilities.
func specFromContainerd(t testing.TB) specs.Spec {
	t.Helper()
	body, err := os.ReadFile("testdata/spec.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(body, &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

// asked is an Input for a container of that spec, annotated, at a site that has decided nothing.
func asked(t testing.TB, annotations map[string]string) Input {
	t.Helper()
	return Input{
		Request: api.AdmitRequest{
			Version: api.Version, Spec: specFromContainerd(t), ListenerPath: "/run/forefend/n/0123456789abcdef0123", Kin: true,
			Facts: workload.Facts{
				ID: workload.ID{Namespace: "default", Container: "web-1"}, Run: "web-1-1", Group: "default",
				Image: workload.Image{Name: "docker.io/library/redis:7", Repository: "docker.io/library/redis", Digest: "sha256:0123"},
				Args:  []string{"redis-server"}, Annotations: annotations,
			},
		},
		Availability: api.ByDaemon, Now: clock,
	}
}

// withDefaultProfile asks for the profile that containerd's clients ask for.
func withDefaultProfile(in Input) Input {
	in.Request.Spec.Linux.Seccomp = seccomp.DefaultProfile(&in.Request.Spec)
	return in
}

// learned adds what five runs of a server have shown, as predictor/recommend puts it.
func learned(in Input) Input {
	in.Prediction = workload.Prediction{Runs: 5, Level: "image+command", Unseen: 0.15, Sealed: true, Seen: map[string]int{}}
	origin := policy.Origin{Author: policy.Prediction, Source: "history image+command, 5 runs"}
	for i, name := range seccomp.Names() {
		if i%6 != 0 {
			continue
		}
		in.Prediction.Seen[name] = 5
		c := policy.Claim{Key: policy.KeySyscalls.Member(name), Value: policy.SyscallNative, Origin: origin}
		switch seccomp.Classify(name) {
		case seccomp.ClassHot:
			continue
		case seccomp.ClassBenign:
			c.Reason = "harmless, and seen in 5 of 5 runs"
		default:
			c.Value, c.Reason = policy.SyscallWatch, "seen in 5 of 5 runs"
		}
		in.Predicted = append(in.Predicted, c)
	}
	in.Predicted = append(in.Predicted,
		policy.Claim{Key: policy.KeyMemorySoft, Value: 64 << 20, Origin: origin},
		policy.Claim{Key: policy.KeyPIDs, Value: 128, Origin: origin},
		policy.Claim{Key: policy.KeySealed, Value: policy.Tight, Origin: origin})
	return in
}

func decide(t testing.TB, in Input) api.Decision {
	t.Helper()
	d, err := Decide(in)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
