package admit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/processor"
)

// FuzzAdmitBody decides about whatever a body decodes to, as the daemon would: it may refuse, and nothing else.
func FuzzAdmitBody(f *testing.F) {
	for _, in := range []Input{asked(f, annotations{"forefend.dev/syscalls.allow": "ptrace"}), withDefaultProfile(asked(f, nil))} {
		body, err := json.Marshal(in.Request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	for _, body := range []string{
		`{}`, `{"spec":{"linux":{"seccomp":{}}}}`, `{"facts":{"privileged":true},"spec":{"process":{"capabilities":{}},"linux":null}}`,
		`{"listener_path":"x","spec":{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":18446744073709551615,"op":"SCMP_CMP_MASKED_EQ"}]}]}}}}`,
		`{"listener_path":"x","facts":{"annotations":{"forefend.dev/memory":"-1","forefend.dev/cpus":"1e99"}},"spec":{"linux":{"resources":{"memory":{"limit":-9223372036854775808},"cpu":{"quota":-1,"period":0}}}}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req api.AdmitRequest
		if json.Unmarshal(body, &req) != nil {
			return
		}
		in := Input{Request: req, Availability: api.ByDaemon, Now: clock}
		began := processor.Used(t)
		d, err := Decide(in)
		if took := processor.Used(t) - began; took > 5*time.Second {
			t.Errorf("%d bytes took %s", len(body), took)
		}
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if _, err := json.Marshal(d); err != nil {
			t.Errorf("the answer cannot be sent: %v", err)
		}
		everyFieldExplained(t, d)
		if _, err := Readjust(d, &specs.LinuxResources{}, in.Site, true); err != nil {
			t.Errorf("and cannot be readjusted: %v", err)
		}
	})
}

// The largest request that fits into a message (4 MiB) is decided in bounded time, wherever its bulk is.
func TestLargestRequests(t *testing.T) {
	many := func(n int, format string) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprintf(format, i)
		}
		return out
	}
	profiled := func(p specs.LinuxSeccomp) Input {
		in := asked(t, nil)
		p.DefaultAction = specs.ActErrno
		in.Request.Spec.Linux.Seccomp = &p
		return in
	}
	rules := make([]specs.LinuxSyscall, 40_000)
	for i := range rules {
		rules[i] = specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: uint64(i), Op: specs.OpEqualTo}}}
	}
	capabilities := asked(t, nil)
	capabilities.Request.Spec.Process.Capabilities.Bounding = many(100_000, "CAP_%d")
	paths := asked(t, nil)
	paths.Request.Spec.Linux.MaskedPaths = many(100_000, "/masked/%d")
	listed := asked(t, annotations{"forefend.dev/syscalls.deny": strings.Join(many(1024, "call_%d"), ",")})
	for name, in := range map[string]Input{
		"names":        profiled(specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{Names: many(200_000, "call_%d"), Action: specs.ActAllow}}}),
		"rules":        profiled(specs.LinuxSeccomp{Syscalls: rules}),
		"capabilities": capabilities,
		"paths":        paths,
		"annotation":   listed,
	} {
		t.Run(name, func(t *testing.T) {
			began := processor.Used(t)
			_, err := Decide(in)
			if took := processor.Used(t) - began; took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if err != nil && !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			t.Logf("%s: %v", processor.Used(t)-began, err)
		})
	}
}
