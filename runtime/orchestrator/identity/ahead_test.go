package identity

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventservice "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// events is a containerd's event service: everybody gets what is sent into the channel.
type events struct {
	eventservice.UnimplementedEventsServer
	following chan []string // filters of each subscription
	send      chan *types.Envelope
}

func (e *events) Subscribe(r *eventservice.SubscribeRequest, to eventservice.Events_SubscribeServer) error {
	e.following <- r.Filters
	for {
		select {
		case envelope := <-e.send:
			if err := to.Send(envelope); err != nil {
				return err
			}
		case <-to.Context().Done():
			return nil
		}
	}
}

// counting is a containerd that says which containers it was asked about.
type counting struct {
	containersapi.ContainersServer
	asked chan string
}

func (c *counting) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	c.asked <- r.ID
	return c.ContainersServer.Get(ctx, r)
}

func created(t *testing.T, namespace, id, runtime string) *types.Envelope {
	t.Helper()
	event, err := anypb.New(&eventsapi.ContainerCreate{ID: id, Runtime: &eventsapi.ContainerCreate_Runtime{Name: runtime}})
	if err != nil {
		t.Fatal(err)
	}
	return &types.Envelope{Namespace: namespace, Topic: createdTopic, Event: event}
}

// node is a containerd with events and a resolver that follows it.
type node struct {
	*Resolver
	events *events
	asked  chan string
	socket string
}

func following(t *testing.T) *node {
	t.Helper()
	n := &node{
		events: &events{following: make(chan []string, 10), send: make(chan *types.Envelope)},
		asked:  make(chan string, 100), socket: socket(t),
	}
	listener, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	containersapi.RegisterContainersServer(server, &counting{newContainerd(), n.asked})
	imagesapi.RegisterImagesServer(server, theImages())
	eventservice.RegisterEventsServer(server, n.events)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		served.Wait()
	})
	n.Resolver = resolver(t)
	if _, err := n.connect(n.socket); err != nil {
		t.Fatal(err)
	}
	if filters := <-n.events.following; len(filters) != 1 {
		t.Errorf("filters %q: other events would wake the daemon for nothing", filters)
	}
	return n
}

func (n *node) identify(t *testing.T, id string) workload.Facts {
	t.Helper()
	f := workload.Facts{ID: workload.ID{Namespace: "default", Container: id}, Containerd: n.socket}
	sources := n.Identify(t.Context(), &f)
	if sources[0].Status != api.SourceOK {
		t.Errorf("%s: %+v", id, sources[0])
	}
	return f
}

// answered waits until the answer about a container is there, without taking it.
func (n *node) answered(id string) {
	n.ahead.mu.Lock()
	e := n.ahead.answers[workload.ID{Namespace: "default", Container: id}]
	n.ahead.mu.Unlock()
	<-e.done
}

func TestAskedAhead(t *testing.T) {
	n := following(t)
	n.events.send <- created(t, "default", "bare", "io.containerd.runc.v2")
	n.events.send <- &types.Envelope{Namespace: "default", Topic: createdTopic} // hostile or newer: no event in it
	n.events.send <- created(t, "../..", "web", "io.containerd.forefend.v1")
	n.events.send <- created(t, "default", "web", "/opt/forefend/containerd-shim-forefend-v1")
	if id := <-n.asked; id != "web" {
		t.Errorf("%s is not a container of ours, but was asked about", id)
	}
	n.answered("web")
	f := n.identify(t, "web")
	if f.Image.Name != "docker.io/library/redis:7" || f.Image.Digest != digest || f.Image.Labels["team"] != "shop" {
		t.Errorf("%+v", f.Image)
	}
	if len(n.asked) != 0 {
		t.Error("asked again for what was known")
	}
	n.identify(t, "web") // the answer was used up: a container of that name may be another one now
	if len(n.asked) != 1 {
		t.Error("an answer serves twice")
	}
}

func TestAskedTooLongAgo(t *testing.T) {
	n := following(t)
	n.events.send <- created(t, "default", "web", "io.containerd.forefend.v1")
	<-n.asked
	n.answered("web")
	n.ahead.mu.Lock()
	n.ahead.answers[workload.ID{Namespace: "default", Container: "web"}].asked = time.Now().Add(-freshFor - time.Second)
	n.ahead.mu.Unlock()
	n.identify(t, "web")
	if len(n.asked) != 1 {
		t.Error("a stale answer was used")
	}
}

func TestAheadIsBounded(t *testing.T) {
	var a ahead
	for i := range 3 * maxAhead {
		a.begin(workload.ID{Namespace: "n", Container: fmt.Sprint("c", i)})
		if len(a.answers) > maxAhead {
			t.Fatalf("%d answers are kept", len(a.answers))
		}
	}
}
