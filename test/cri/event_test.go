package cri

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// events collects what GetContainerEvents says, in the order it says it.
type events struct {
	mu  sync.Mutex
	all []*cri.ContainerEventResponse // guarded by mu
}

func (n *node) events(t *testing.T) *events {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := n.runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	e := new(events)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				return // the test ended
			}
			e.mu.Lock()
			e.all = append(e.all, event)
			e.mu.Unlock()
		}
	}()
	return e
}

// of are the events of one container or pod.
func (e *events) of(id string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, event := range e.all {
		if event.ContainerId == id {
			names = append(names, strings.TrimSuffix(strings.TrimPrefix(event.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
		}
	}
	return names
}

// TestEvents checks the stream that a kubelet follows instead of asking again and again.
func TestEvents(t *testing.T) {
	n := newNode(t)
	seen := n.events(t)
	underBoth(t, func(t *testing.T, handler string) string {
		p := n.pod(t, handler)
		life := []string{"CREATED", "STARTED", "STOPPED", "DELETED"}
		var ids []string
		for _, script := range []string{"exit 0", "exit 1", "kill -9 $$"} {
			c := p.start(t, shell(script))
			c.ended(t)
			eventually(t, "the end is told", func() bool { return slices.Contains(seen.of(c.id), "STOPPED") })
			if _, err := n.runtime.RemoveContainer(within(t), &cri.RemoveContainerRequest{ContainerId: c.id}); err != nil {
				t.Error(err)
			}
			ids = append(ids, c.id)
		}
		p.remove(t)
		out := ""
		for _, id := range append(ids, p.id) {
			eventually(t, "the removal is told", func() bool { return slices.Contains(seen.of(id), "DELETED") })
			if got := seen.of(id); !slices.Equal(got, life) {
				t.Errorf("events %v, want %v", got, life)
			}
			out += fmt.Sprintln(seen.of(id))
		}
		return out
	})
}

// TestRestart kills containerd under running pods: they run on, and what happened meanwhile is known afterwards.
func TestRestart(t *testing.T) {
	n := newNode(t)
	underBoth(t, func(t *testing.T, handler string) string {
		p := n.pod(t, handler)
		stays := p.start(t, sleeper())
		stays.prints(t, "ready")
		ends := p.start(t, shell("until [ -e /tmp/go ]; do sleep 0.05; done; echo done; exit 6"))
		pid := stays.pid(t)
		_ = n.conn.Close()
		if err := n.RestartContainerd(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.dial(t)
		if got := stays.pid(t); got != pid {
			t.Errorf("pid %d before and %d after", pid, got)
		}
		out := stays.exec(t, "echo", "alive") + ends.exec(t, "touch", "/tmp/go") + fmt.Sprintln(ends.ended(t).ExitCode)

		late := p.start(t, command("sleep", "1000"))
		latePid := late.pid(t)
		_ = n.conn.Close()
		if err := n.RestartContainerd(t.Context(), syscall.SIGTERM, func() {
			if err := syscall.Kill(latePid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			eventually(t, "it is gone", func() bool { return syscall.Kill(latePid, 0) != nil })
		}); err != nil {
			t.Fatal(err)
		}
		n.dial(t)
		out += fmt.Sprintln("died meanwhile:", late.ended(t).ExitCode)
		newer := p.start(t, shell("echo new")) // in the old pod, by the shim that lived through it
		return out + newer.end(t) + fmt.Sprintln(p.status(t).State, len(p.shims(t, handler)))
	})
}
