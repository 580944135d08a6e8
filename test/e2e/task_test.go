package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/typeurl/v2"
)

// task is a running container as containerd's own client sees it.
func (h *host) task(t testing.TB, id string) client.Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(h.Context(context.Background()), time.Minute)
	t.Cleanup(cancel)
	c, err := h.Client().LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// context is the test's own, in the environment's namespace, with a bound.
func (h *host) context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(h.Context(t.Context()), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// exits returns what gives the exit status of a container, once it has ended.
func (h *host) exits(t testing.TB, id string) func() uint32 {
	t.Helper()
	ctx := h.context(t)
	statuses, err := h.task(t, id).Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return func() uint32 {
		t.Helper()
		select {
		case s := <-statuses:
			if err := s.Error(); err != nil {
				t.Fatal(err)
			}
			return s.ExitCode()
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not end", id)
		}
		return 0
	}
}

// recorder notes the events that containerd publishes about tasks.
type recorder struct {
	mu     sync.Mutex
	topics map[string][]string // by container, guarded by mu
}

// record begins to note events; it ends with the test.
func (h *host) record(t testing.TB) *recorder {
	t.Helper()
	r := &recorder{topics: make(map[string][]string)}
	ctx, stop := context.WithCancel(context.Background())
	messages, errs := h.Client().Subscribe(ctx, `topic~="^/tasks/"`)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case m := <-messages:
				if m != nil {
					r.add(m.Topic, m.Event)
				}
			case <-errs:
				return
			}
		}
	})
	t.Cleanup(func() { stop(); done.Wait() })
	return r
}

func (r *recorder) add(topic string, body typeurl.Any) {
	v, err := typeurl.UnmarshalAny(body)
	if err != nil {
		return
	}
	id := ""
	if e, ok := v.(interface{ GetContainerID() string }); ok {
		id = e.GetContainerID()
	}
	if e, ok := v.(*apievents.TaskExit); ok && e.ID != e.ContainerID {
		topic += " of exec"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.topics[id] = append(r.topics[id], topic)
}

// of returns the topics about one container so far, in order.
func (r *recorder) of(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.topics[id], " ")
}
