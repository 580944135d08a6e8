package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func stateMessage(t testing.TB, change func(*specs.ContainerProcessState)) []byte {
	t.Helper()
	s := &specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: 42,
		State: specs.State{Version: specs.Version, ID: "web", Status: specs.StateRunning, Pid: 42, Bundle: "/b"},
	}
	change(s)
	raw, err := json.Marshal(s)
	must(t, err)
	return raw
}

func TestParseState(t *testing.T) {
	for phase, pid := range map[string]int{OriginInit: 42, OriginExec: 43} {
		got, err := parseState(stateMessage(t, func(s *specs.ContainerProcessState) { s.Pid = pid }))
		if want := (newcomer{container: "web", pid: uint32(pid), origin: phase}); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	crun := stateMessage(t, func(s *specs.ContainerProcessState) { s.Pid, s.State.Pid = 0, 0 })
	if got, err := parseState(crun); err != nil || got != (newcomer{container: "web", origin: OriginExec}) {
		t.Errorf("an exec of crun: %+v, %v", got, err)
	}
	for what, message := range map[string][]byte{
		"nothing":          nil,
		"no JSON":          []byte("web"),
		"two messages":     append(stateMessage(t, func(*specs.ContainerProcessState) {}), "{}"...),
		"no descriptor":    stateMessage(t, func(s *specs.ContainerProcessState) { s.Fds = nil }),
		"two descriptors":  stateMessage(t, func(s *specs.ContainerProcessState) { s.Fds = append(s.Fds, "x") }),
		"other descriptor": stateMessage(t, func(s *specs.ContainerProcessState) { s.Fds = []string{"pidfd"} }),
		"no process":       stateMessage(t, func(s *specs.ContainerProcessState) { s.Pid = 0 }),
		"no process yet": stateMessage(t, func(s *specs.ContainerProcessState) {
			s.Pid, s.State.Pid, s.State.Status = 0, 0, specs.StateCreating
		}),
		"negative process": stateMessage(t, func(s *specs.ContainerProcessState) { s.Pid = -1 }),
		"huge process":     stateMessage(t, func(s *specs.ContainerProcessState) { s.Pid = 1 << 40 }),
		"no id":            stateMessage(t, func(s *specs.ContainerProcessState) { s.State.ID = "" }),
		"too long":         bytes.Repeat([]byte(" "), maxStateBytes+1),
	} {
		if got, err := parseState(message); !errors.Is(err, ErrBadState) || got != (newcomer{}) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}

func FuzzParseState(f *testing.F) {
	f.Add(stateMessage(f, func(*specs.ContainerProcessState) {}))
	f.Add(stateMessage(f, func(s *specs.ContainerProcessState) { s.State.Annotations = map[string]string{"a": "b"} }))
	f.Add([]byte(`{"fds":["seccompFd"],"pid":1e3,"state":{"id":"x"}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		n, err := parseState(message)
		if err == nil && (n.container == "" || n.pid == 0 && n.origin != OriginExec || n.origin == "") {
			t.Errorf("%+v from %q", n, message)
		}
		if err != nil && !errors.Is(err, ErrBadState) {
			t.Errorf("%v from %q", err, message)
		}
	})
}
