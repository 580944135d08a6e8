package shim

import (
	"encoding/json"
	"strings"
	"testing"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// FuzzFacts derives from any spec what is sent to the daemon. Secrets stay behind wherever specs carry them: environment,
// hooks, mounts, foreign annotations; what goes is bounded in number.
func FuzzFacts(f *testing.F) {
	f.Add([]byte(testSpec), "lowerdir=/a:/b", "overlay")
	f.Add([]byte(`{"process":null,"linux":{"seccomp":null,"resources":null,"maskedPaths":[""]},"annotations":{"io.kubernetes.cri.sandbox-id":"s","io.kubernetes.cri.container-type":"sandbox"}}`), "", "bind")
	f.Add([]byte(`{"process":{"args":null,"env":["PATH","PATH=","=x",""],"capabilities":{"bounding":["CAP_SYS_ADMIN"]}},"linux":{}}`), "upperdir=x", "")
	f.Fuzz(func(t *testing.T, raw []byte, option, kind string) {
		var spec specs.Spec
		if json.Unmarshal(raw, &spec) != nil {
			return
		}
		const secret = "s3cr3t-0f-th3-w0rkl0ad"
		if strings.Contains(string(raw), secret) {
			return
		}
		if spec.Process != nil {
			spec.Process.Env = append(spec.Process.Env, "TOKEN="+secret)
			spec.Process.ApparmorProfile = secret
		}
		if spec.Annotations == nil {
			spec.Annotations = map[string]string{}
		}
		spec.Annotations["example.com/token"] = secret
		for i := range 200 {
			spec.Annotations[policy.Prefix+strings.Repeat("x", i)] = "v"
		}
		spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/h", Args: []string{secret}, Env: []string{secret}}}}
		spec.Mounts = append(spec.Mounts, specs.Mount{Source: secret, Destination: "/m", Options: []string{secret}})
		before, err := json.Marshal(&spec)
		if err != nil {
			t.Fatal(err)
		}
		r := &taskv3.CreateTaskRequest{ID: "one", Bundle: "/b"}
		facts := factsOf(workload.ID{Namespace: "n", Container: "one"}, &spec, r, "/c.sock")
		body, err := json.Marshal(api.AdmitRequest{Version: api.Version, Facts: facts, Spec: forDecision(&spec)})
		if err != nil {
			t.Fatalf("what is asked cannot be sent: %v", err)
		}
		if strings.Contains(string(body), secret) {
			t.Errorf("a secret goes to the daemon: %s", body)
		}
		if len(facts.Annotations) > maxAnnotations || len(forDecision(&spec).Annotations) > maxAnnotations {
			t.Errorf("%d annotations are handed on", len(facts.Annotations))
		}
		if after, _ := json.Marshal(&spec); string(after) != string(before) {
			t.Error("the spec was changed")
		}
		if facts.Run == "" || len(facts.Keys()) == 0 || facts.Kind == "" {
			t.Errorf("%+v", facts)
		}
		_ = privileged(&spec)
	})
}
