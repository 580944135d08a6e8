package shim

import (
	"context"
	"strings"
	"testing"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"

	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// supervised is a fixture whose container "one" has a table, and nobody who makes calls.
func supervised(t *testing.T) (*fixture, *container) {
	t.Helper()
	f := newFixture(t, testSpec, "last-known")
	f.inner.create = func(*taskv3.CreateTaskRequest) (*taskv3.CreateTaskResponse, error) {
		return &taskv3.CreateTaskResponse{Pid: 1}, nil
	}
	if err := f.create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.delete(t) })
	return f, f.service.container("one")
}

func call(author policy.Author, v policy.Value, reason string, names ...string) policy.Field {
	return policy.Field{Key: policy.KeySyscalls, Names: names, Value: v, Origin: policy.Origin{Author: author, Source: "test", Reason: reason}}
}

func (f *fixture) change(c *container, fields ...policy.Field) (api.Decision, api.Result) {
	before := c.current()
	after := before
	after.Revision++
	after.Effective = before.Effective.Put(fields...)
	d, results, _ := f.service.adapt(context.Background(), c, before, after, manner{})
	for _, r := range results {
		if r.Lever == "syscalls" {
			return d, r
		}
	}
	return d, api.Result{}
}

func TestSyscallsLever(t *testing.T) {
	f, c := supervised(t)
	verdict := func(name string) seccomp.Verdict {
		v, ok := c.supervised.Table().Verdict(name)
		if !ok {
			t.Fatalf("%s is not watched", name)
		}
		return v
	}
	d, r := f.change(c, call(policy.Operator, policy.SyscallDeny, "", "mkdir"))
	if r.Status != api.ResultApplied || verdict("mkdir") != seccomp.Deny || d.Effective.Value("syscalls/mkdir", 9) != policy.SyscallDeny {
		t.Errorf("mkdir denied: %+v, table says %s", r, verdict("mkdir"))
	}
	d, r = f.change(c, call(policy.Operator, policy.SyscallWatch, "", "mkdir", "mount"), call(policy.Operator, policy.SyscallDeny, "", "rmdir"))
	if r.Status != api.ResultApplied || verdict("mkdir") != seccomp.Watch || verdict("mount") != seccomp.Watch || verdict("rmdir") != seccomp.Deny {
		t.Errorf("mkdir and mount allowed, rmdir denied: %+v, table says %v", r, c.supervised.Table().Verdicts())
	}
	// All or nothing, by name, with a way out.
	after, r := f.change(c, call(policy.Operator, policy.SyscallDeny, "", "openat", "rmdir", "chmod"))
	if r.Status != api.ResultRefused || !strings.Contains(r.Reason, "openat") || !strings.Contains(r.Reason, "syscalls.deny=openat") || strings.Contains(r.Reason, "chmod") {
		t.Errorf("openat denied: %+v", r)
	}
	if verdict("chmod") != seccomp.Watch || after.Effective.Value("syscalls/chmod", 9) != d.Effective.Value("syscalls/chmod", 9) {
		t.Errorf("chmod was changed by what was refused: %s", verdict("chmod"))
	}
	if after.Revision != d.Revision || c.current().Revision != d.Revision {
		t.Errorf("revision %d of a change that was refused as a whole, %d was in force", after.Revision, d.Revision)
	}
	// What nobody asked for by name is left out, and the policy says what is in force.
	d, r = f.change(c, call(policy.Default, policy.SyscallDeny, "enforce", "openat", "chmod"))
	if r.Status != api.ResultApplied || !strings.Contains(r.Reason, "one call stays as it is") || verdict("chmod") != seccomp.Deny {
		t.Errorf("openat and chmod denied on the side: %+v", r)
	}
	if field, _ := d.Effective.Lookup("syscalls/openat"); field.Value != policy.SyscallNative || len(field.Lost) == 0 || field.Lost[len(field.Lost)-1].Value != policy.SyscallDeny {
		t.Errorf("openat: %+v", field)
	}
	if _, r = f.change(c, policy.Field{Key: policy.KeySeccomp, Value: policy.Loose, Origin: policy.Origin{Author: policy.Operator}}); r.Status != api.ResultRefused {
		t.Errorf("unconfined: %+v", r)
	}
	if d.Effective.Value(policy.KeySeccomp, 9) != policy.Tight {
		t.Errorf("the profile is gone from the policy")
	}
}

// A denial keeps the exceptions that belong to its reason through any change of mode.
func TestSyscallsLeverKeepsExceptions(t *testing.T) {
	f, c := supervised(t)
	was := c.supervised.Table()
	kin := func() bool { return c.supervised.Table().Equal(was) }
	field, _ := c.current().Effective.Lookup("syscalls/ptrace")
	if _, except := admit.CallVerdict(field); except != seccomp.ExceptKin {
		t.Fatalf("ptrace is decided as %+v to begin with", field)
	}
	if _, r := f.change(c, call(policy.Operator, policy.SyscallDeny, "", "ptrace")); r.Status != api.ResultApplied || kin() {
		t.Errorf("denied to everybody: %+v, kin %t", r, kin())
	}
	field.Names = []string{"ptrace"}
	if _, r := f.change(c, field); r.Status != api.ResultApplied || !kin() {
		t.Errorf("as it was: %+v, kin %t", r, kin())
	}
}

func TestSyscallsLeverWithoutSupervision(t *testing.T) {
	f, c := supervised(t)
	table := c.supervised
	c.supervised = nil
	defer func() { c.supervised = table }()
	if _, r := f.change(c, call(policy.Operator, policy.SyscallDeny, "", "mkdir")); r.Status != api.ResultRefused || !strings.Contains(r.Reason, "not supervised") {
		t.Errorf("%+v", r)
	}
	d, r := f.change(c, call(policy.Default, policy.SyscallDeny, "", "mkdir"))
	if d.Effective.Value("syscalls/mkdir", 9) == policy.SyscallDeny {
		t.Errorf("the policy says what is not so: %+v", r)
	}
}
