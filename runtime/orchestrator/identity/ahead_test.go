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
	"google.golang.org/protobuf/proto"
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
	return envelope(t, namespace, createdTopic, &eventsapi.ContainerCreate{ID: id, Image: "docker.io/library/redis:7",
		Runtime: &eventsapi.ContainerCreate_Runtime{Name: runtime}})
}

func envelope(t *testing.T, namespace, topic string, event proto.Message) *types.Envelope {
	t.Helper()
	packed, err := anypb.New(event)
	if err != nil {
		t.Fatal(err)
	}
	return &types.Envelope{Namespace: namespace, Topic: topic, Event: packed}
}

// node is a containerd with events and a resolver that follows it.
type node struct {
	*Resolver
	events *events
	asked  chan string
	socket string
	heard  chan any // by the listener

	containers *containerd
}

func following(t *testing.T) *node {
	t.Helper()
	n := &node{
		events: &events{following: make(chan []string, 10), send: make(chan *types.Envelope)},
		asked:  make(chan string, 100), socket: socket(t), containers: newContainerd(),
		heard: make(chan any, 100),
	}
	listener, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	containersapi.RegisterContainersServer(server, &counting{n.containers, n.asked})
	imagesapi.RegisterImagesServer(server, theImages())
	eventservice.RegisterEventsServer(server, n.events)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		served.Wait()
	})
	n.Resolver = resolver(t)
	n.listener = func(_ context.Context, _ *grpc.ClientConn, _ string, event any) { n.heard <- event }
	if _, err := n.connect(n.socket); err != nil {
		t.Fatal(err)
	}
	if filters := <-n.events.following; len(filters) != 2 || filters[1] != `topic~="^/images/"` {
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

// What containerd said of a container and its image is handed on, so that nobody has to ask for it again.
func TestCreatedIsHandedOn(t *testing.T) {
	n := following(t)
	n.events.send <- created(t, "default", "none", "io.containerd.forefend.v1") // gone already
	n.events.send <- created(t, "default", "web", "io.containerd.forefend.v1")
	c, ok := (<-n.heard).(Created)
	if !ok || c.ID != "web" || c.Of.Digest != digest || c.Of.Name != "docker.io/library/redis:7" {
		t.Errorf("heard of %+v", c)
	}
	if len(n.asked) != 2 {
		t.Errorf("asked about %d containers, created were 2", len(n.asked))
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

// Once an image is known, a container is identified by the event of its creation alone, however long containerd takes to
// answer; a change of the image is heard.
func TestKnownImage(t *testing.T) {
	n := following(t)
	n.identify(t, "web") // asks for the image
	<-n.asked
	n.containers.hang = make(chan struct{})
	defer close(n.containers.hang)
	n.events.send <- created(t, "default", "new", "io.containerd.forefend.v1")
	<-n.asked // and gets no answer
	f := n.identify(t, "new")
	if f.Image.Name != "docker.io/library/redis:7" || f.Image.Repository != "docker.io/library/redis" || f.Image.Digest != digest || f.Image.Labels["version"] != "7" {
		t.Errorf("%+v", f.Image)
	}
	conn, err := n.connect(n.socket)
	if err != nil {
		t.Fatal(err)
	}
	redis := named{conn, "default", "docker.io/library/redis:7"}
	for name, event := range map[string]*types.Envelope{
		"an update": envelope(t, "default", "/images/update", &eventsapi.ImageUpdate{Name: redis.name}),
		"a removal": envelope(t, "default", "/images/delete", &eventsapi.ImageDelete{Name: redis.name}),
		"a new one": envelope(t, "default", "/images/create", &eventsapi.ImageCreate{Name: redis.name}),
		"nonsense":  {Namespace: "default", Topic: "/images/odd", Event: &anypb.Any{TypeUrl: "nothing", Value: []byte{1}}},
	} {
		_, _, since := n.known.get(redis)
		n.known.add(redis, found{asked: time.Now(), digest: digest}, since)
		if _, ok, _ := n.known.get(redis); !ok {
			t.Fatal("not remembered")
		}
		n.events.send <- event
		n.events.send <- created(t, "default", "next", "io.containerd.forefend.v1")
		<-n.asked // so the event before has been heard
		if _, ok, _ := n.known.get(redis); ok {
			t.Errorf("still known after %s", name)
		}
	}
}

func TestKnownIsNoOlderThanItsEvents(t *testing.T) {
	var k known
	a := named{name: "a"}
	fresh := found{asked: time.Now(), digest: digest}
	if k.add(a, fresh, 0); len(k.images) != 0 {
		t.Error("remembered of a containerd that nobody listens to")
	}
	k.follow(nil, true)
	_, _, since := k.get(a)
	k.forget(named{name: "b"})
	k.add(a, fresh, since) // asked before something changed
	_, there, since := k.get(a)
	k.add(a, fresh, since)
	_, then, since := k.get(a)
	k.add(named{name: "old"}, found{asked: time.Now().Add(-2 * knownFor)}, since)
	if _, old, _ := k.get(named{name: "old"}); there || !then || old {
		t.Errorf("after a change %t, asked again %t, too long ago %t", there, then, old)
	}
	for i := range 2 * maxKnown {
		k.add(named{name: fmt.Sprint(i)}, fresh, since)
	}
	if k.follow(nil, false); len(k.images) != 0 {
		t.Errorf("%d images of a containerd that is not heard", len(k.images))
	}
}

func TestAheadIsBounded(t *testing.T) {
	var a ahead
	for i := range 3 * maxAhead {
		a.begin(workload.ID{Namespace: "n", Container: fmt.Sprint("c", i)}, workload.Image{})
		if len(a.answers) > maxAhead {
			t.Fatalf("%d answers are kept", len(a.answers))
		}
	}
}
