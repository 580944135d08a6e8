package shim

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
)

// outbox keeps the topics it was asked to publish.
type outbox struct{ topics []string }

func (o *outbox) Publish(_ context.Context, topic string, _ events.Event) error {
	o.topics = append(o.topics, topic)
	return errors.New("passed on")
}

func (o *outbox) Close() error { return nil }

func TestExitsAwaitTheContainersOwnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &outbox{}
		e := newExits(out)
		e.expect("one")
		waited := make(chan time.Duration)
		began := time.Now()
		go func() {
			e.await(t.Context(), "one")
			waited <- time.Since(began)
		}()
		for _, exit := range []*eventsapi.TaskExit{{ContainerID: "two", ID: "two"}, {ContainerID: "one", ID: "exec"}, {ContainerID: "one", ID: "one"}} {
			time.Sleep(time.Second) // of the bubble's clock
			if err := e.Publish(t.Context(), "/tasks/exit", exit); err == nil || err.Error() != "passed on" {
				t.Errorf("the publisher's answer became %v", err)
			}
		}
		if d := <-waited; d != 3*time.Second {
			t.Errorf("waited %v, want until the third event", d)
		}
		if len(out.topics) != 3 {
			t.Errorf("published %v", out.topics)
		}
		e.await(t.Context(), "one") // is out: returns at once
	})
}

func TestExitsGiveUpWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExits(&outbox{})
		e.expect("one")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		e.await(ctx, "one")
		if d := time.Since(began); d != time.Second {
			t.Errorf("waited %v, want a second", d)
		}
		e.forget("one")
		e.await(t.Context(), "one")
	})
}
