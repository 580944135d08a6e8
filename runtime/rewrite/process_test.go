package rewrite

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

const container = `{"process":{"capabilities":{"bounding":["CAP_KILL","CAP_CHOWN"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]},
	"rlimits":[{"type":"RLIMIT_NOFILE","hard":100,"soft":50}]}}`

func TestProcessJSON(t *testing.T) {
	for name, c := range map[string]struct {
		process string
		policy  map[string]string
		want    string
		notes   []string
	}{
		"as it came": {`{"cwd":"/",  "args":["x"], "future":1.0}`, nil, `{"cwd":"/",  "args":["x"], "future":1.0}`, nil},
		"more capabilities than the container": {
			`{"cwd":"/","future":1.50,"capabilities":{"bounding":["CAP_KILL","CAP_SYS_ADMIN"],"effective":["CAP_SYS_ADMIN"],"ambient":["CAP_SYS_ADMIN"],"new":["x"]}}`,
			nil, `{"cwd":"/","future":1.50,"capabilities":{"bounding":["CAP_KILL"],"new":["x"]}}`,
			[]string{"not in the container's policy, dropped: CAP_SYS_ADMIN"}},
		"the policy is tighter by now": {`{"cwd":"/"}`, map[string]string{"capabilities/CAP_KILL": "dropped"},
			`{"cwd":"/","capabilities":{"bounding":["CAP_CHOWN"]}}`, []string{"not in the container's policy, dropped: CAP_KILL"}},
		"the policy is looser by now": {`{"capabilities":{"bounding":["CAP_BPF"]}}`, map[string]string{"capabilities/CAP_BPF": "kept"},
			`{"capabilities":{"bounding":["CAP_BPF"]}}`, nil},
		"the policy keeps more by now": {`{"capabilities":{"bounding":["CAP_KILL"]}}`, map[string]string{"capabilities/CAP_BPF": "kept", "capabilities/CAP_FUTURE": "kept"},
			`{"capabilities":{"bounding":["CAP_KILL","CAP_BPF"],"effective":["CAP_BPF"],"permitted":["CAP_BPF"]}}`, nil},
		"the policy keeps more than the container": {`{"cwd":"/"}`, map[string]string{"capabilities/CAP_BPF": "kept"},
			`{"cwd":"/","capabilities":{"bounding":["CAP_KILL","CAP_CHOWN","CAP_BPF"],"effective":["CAP_KILL","CAP_BPF"],"permitted":["CAP_KILL","CAP_BPF"]}}`, nil},
		"no_new_privileges": {`{"cwd":"/"}`, map[string]string{"no_new_privileges": "on"}, `{"cwd":"/","noNewPrivileges":true}`,
			[]string{"no_new_privileges is on in the container's policy, switched on"}},
		"no_new_privileges of the caller": {`{"noNewPrivileges":true}`, map[string]string{"no_new_privileges": "off"}, `{"noNewPrivileges":true}`, nil},
		"limits lowered": {`{"rlimits":[{"type":"RLIMIT_NOFILE","hard":900,"soft":800,"why":"x"},{"type":"RLIMIT_CORE","hard":1,"soft":1}]}`,
			map[string]string{"rlimits/RLIMIT_NOFILE": "100", "rlimits/RLIMIT_CORE": "5"},
			`{"rlimits":[{"type":"RLIMIT_NOFILE","hard":100,"soft":100,"why":"x"},{"type":"RLIMIT_CORE","hard":1,"soft":1}]}`,
			[]string{"over the container's policy, lowered: RLIMIT_NOFILE"}},
		"limits of the container": {`{"cwd":"/"}`, map[string]string{"rlimits/RLIMIT_NOFILE": "80", "rlimits/RLIMIT_CORE": "5", "rlimits/RLIMIT_CPU": "unlimited"},
			`{"cwd":"/","rlimits":[{"type":"RLIMIT_CORE","hard":5,"soft":5},{"type":"RLIMIT_NOFILE","hard":80,"soft":50}]}`, nil},
		"the user is the caller's": {`{"user":{"uid":0,"gid":7},"apparmorProfile":"x"}`, nil, `{"user":{"uid":0,"gid":7},"apparmorProfile":"x"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, notes, err := ProcessJSON([]byte(c.process), parse[specs.Spec](t, container), decided(t, c.policy))
			if err != nil || string(got) != c.want || !slices.Equal(notes, c.notes) {
				t.Errorf("got %s\nwant %s\nnotes %q, error %v", got, c.want, notes, err)
			}
		})
	}
}

// TestNoNewPrivilegesOfBefore: a client repeats what the container was created with; the policy has changed since.
func TestNoNewPrivilegesOfBefore(t *testing.T) {
	created := parse[specs.Spec](t, `{"process":{"noNewPrivileges":true}}`)
	for policy, want := range map[string]string{"off": `{}`, "on": `{"noNewPrivileges":true}`} {
		got, _, err := ProcessJSON([]byte(`{"noNewPrivileges":true}`), created, decided(t, map[string]string{"no_new_privileges": policy}))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", policy, got, err)
		}
	}
}

func TestPermitted(t *testing.T) {
	root, other := []byte(`{"user":{"uid":0}}`), []byte(`{"user":{"uid":33}}`)
	for _, c := range []struct {
		exec        string
		root, other bool
	}{{"on", true, true}, {"non-root", false, true}, {"off", false, false}, {"", true, true}} {
		values := map[string]string{}
		if c.exec != "" {
			values["operator:exec"] = c.exec
		}
		eff := decided(t, values)
		for raw, want := range map[*[]byte]bool{&root: c.root, &other: c.other} {
			err := Permitted(*raw, eff)
			if (err == nil) != want || err != nil && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "exec = "+c.exec+" by operator, test")) {
				t.Errorf("exec %q: %s: %v", c.exec, *raw, err)
			}
		}
	}
	if err := Permitted([]byte(`7`), decided(t, map[string]string{"exec": "off"})); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestProcessJSONErrors(t *testing.T) {
	for _, raw := range []string{``, `null`, `[]`, `{"args":7}`, `{"capabilities":{"bounding":["CAP_BPF"]},"capabilities":{"effective":["CAP_BPF"]}}`} {
		out, _, err := ProcessJSON([]byte(raw), parse[specs.Spec](t, container), decided(t, map[string]string{"no_new_privileges": "on"}))
		if raw == `null` && err == nil && strings.Contains(string(out), "noNewPrivileges") {
			continue // an empty process, which runc refuses
		}
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %s, %v", raw, out, err)
		}
	}
}

// TestProcessSpelling: Go reads keys in any case, and so does runc.
func TestProcessSpelling(t *testing.T) {
	got, _, err := ProcessJSON([]byte(`{"Capabilities":{"BOUNDING":["CAP_BPF"],"ambient":["CAP_KILL"]}}`), parse[specs.Spec](t, container), policy.Effective{})
	if want := `{"Capabilities":{"ambient":["CAP_KILL"]}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestProcessOfContainer: an exec that asks for what the container asked for is
// left as it is, for every spec there is.
func TestProcessOfContainer(t *testing.T) {
	for name, spec := range corpus(t) {
		eff := policy.Merge(policy.Input{Claims: Claims(spec, false)})
		raw := []byte(text(t, spec.Process))
		got, notes, err := ProcessJSON(raw, spec, eff)
		if err != nil || len(notes) > 0 || string(got) != string(raw) {
			t.Errorf("%s: %v %v %s", name, err, notes, got)
		}
	}
}

func TestProcessLeavesItsArgument(t *testing.T) {
	p := parse[specs.Process](t, `{"capabilities":{"bounding":["CAP_BPF","CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":900,"soft":800}]}`)
	before := text(t, p)
	got, notes := Process(p, new(specs.Spec), decided(t, map[string]string{"rlimits/RLIMIT_NOFILE": "5", "rlimits/RLIMIT_CORE": "0", "no_new_privileges": "on"}))
	if text(t, p) != before {
		t.Errorf("changed: %s", text(t, p))
	}
	if len(notes) != 3 || len(got.Capabilities.Bounding) > 0 {
		t.Errorf("%q %s", notes, text(t, got))
	}
}
