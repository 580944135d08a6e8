package shim

import (
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// TestAdaptInBrief: a brief request leaves all else of the decision in force, is recorded whole, and is answered in brief where all of it came
// into force. What another change of the same number led to is told, and stays.
func TestAdaptInBrief(t *testing.T) {
	f, c := supervised(t)
	adapter, before := adapter{f.service}, c.current()
	at := time.Now()
	exec := policy.Field{Key: policy.KeyExec, Value: policy.Tight, Origin: policy.Origin{Author: policy.Operator, Source: "test"}}
	req := api.AdaptRequest{
		Version: api.Version, Oldest: api.Oldest, ID: c.id, Run: before.Facts.Run, Before: before.Revision, Brief: true, Only: []policy.Dimension{policy.Capabilities},
		After: api.Decision{Revision: before.Revision + 1, Effective: policy.Effective{Fields: []policy.Field{exec}}, Changes: []api.Change{{Revision: before.Revision + 1, Time: at}}},
	}
	adapt := func() api.AdaptResponse {
		t.Helper()
		resp, err := adapter.Adapt(f.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := adapt(); !resp.AsAsked || len(resp.Results) != 1 || resp.Results[0].Status != api.ResultApplied || resp.Decision.Revision != 0 {
		t.Errorf("answered %+v", resp)
	}
	r, err := f.service.cfg.Containers.Read(c.id)
	if err != nil || !r.Brief {
		t.Fatalf("%+v, %v", r, err)
	}
	for what, d := range map[string]api.Decision{"in force": c.current(), "recorded": *r.Decision} {
		rest := before.Effective.Replace(policy.Capabilities, d.Effective)
		if d.Effective.Value(policy.KeyExec, policy.Loose) != policy.Tight || !rest.Equal(d.Effective) || d.Facts.Run != before.Facts.Run || len(d.Changes[0].Results) != 1 {
			t.Errorf("%s is %+v", what, d)
		}
	}

	req.Before, req.Since = c.current().Revision, at.Add(-time.Second)
	req.After.Revision++
	if resp := adapt(); !resp.Stale || resp.Decision.Facts.Run != req.Run || c.current().Revision != req.Before {
		t.Errorf("from another change: stale %v, revision %d", resp.Stale, resp.Decision.Revision)
	}
	req.Since = at
	refused := call(policy.Operator, policy.SyscallDeny, "", "getpid")
	req.Only = []policy.Dimension{policy.Syscalls}
	req.After.Effective.Fields = c.current().Effective.Put(refused).Of(policy.Syscalls).Fields
	if resp := adapt(); resp.AsAsked || resp.Decision.Facts.Run != req.Run || resp.Decision.Revision != req.Before {
		t.Errorf("refused: revision %d, %+v", resp.Decision.Revision, resp.Results)
	}
	left := call(policy.Default, policy.SyscallDeny, "enforce", "openat", "chmod")
	req.After.Effective.Fields = c.current().Effective.Put(left).Of(policy.Syscalls).Fields
	if resp := adapt(); resp.AsAsked || resp.Decision.Revision != req.Before+1 || resp.Decision.Effective.Value("syscalls/openat", 9) != policy.SyscallNative {
		t.Errorf("left out in part: revision %d, %+v", resp.Decision.Revision, resp.Results)
	}
}
