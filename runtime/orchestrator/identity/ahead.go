package identity

import (
	"context"
	"path"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventservice "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"google.golang.org/grpc"

	"forefend.dev/forefend/runtime/workload"
)

const (
	createdTopic = "/containers/create"
	imageTopic   = "/images/create"
	imageTopics  = "/images/" // create, update, delete
	// runtimeWord is in the name and in the path of the runtime whose containers are asked about ahead.
	runtimeWord = "forefend"
	// Between a container's creation and its task's lie the start of a shim and, with some clients, the user. On a crowded
	// node fifty shims took up to ten seconds to start. An answer that is older than this is asked for again: a new container
	// of the same name is told of and replaces it, but a stream of events may break.
	freshFor  = 2 * time.Minute
	maxAhead  = 1024            // answers that wait to be asked for
	followGap = 2 * time.Second // between attempts to follow a containerd
)

// ahead asks containerd for the image of each container of ours as soon as
// containerd says that it was created. Admit comes 10 ms later or more, when fifty
// containers start at once much more, and finds the answer there: with every core busy two
// questions to containerd take longer than the whole budget of a prediction. Where the image is known already, only the
// container's labels are asked for, and Admit does not wait for them.
type ahead struct {
	mu      sync.Mutex
	answers map[workload.ID]*early // guarded by mu
}

// early is an answer that is there, or on its way.
type early struct {
	asked time.Time
	known workload.Image // by what the event says; without a digest: not known. Without the container's labels.
	done  chan struct{}  // closed when the two below are set
	image workload.Image
	err   error
}

// take returns and forgets the answer about a container, if it was asked for and is fresh.
func (a *ahead) take(id workload.ID) *early {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.answers[id]
	delete(a.answers, id)
	if e == nil || time.Since(e.asked) > freshFor {
		return nil
	}
	return e
}

// begin makes a place for an answer; the newest container of a name counts.
func (a *ahead) begin(id workload.ID, known workload.Image) *early {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answers == nil {
		a.answers = make(map[workload.ID]*early)
	}
	if len(a.answers) >= maxAhead {
		a.expireLocked()
	}
	e := &early{asked: time.Now(), known: known, done: make(chan struct{})}
	a.answers[id] = e
	return e
}

// expireLocked drops what is not fresh, or everything: what is missing is asked for when it is needed.
func (a *ahead) expireLocked() {
	for id, e := range a.answers {
		if time.Since(e.asked) > freshFor {
			delete(a.answers, id)
		}
	}
	if len(a.answers) >= maxAhead {
		clear(a.answers)
	}
}

// follow listens to one containerd until the resolver is closed.
func (r *Resolver) follow(conn *grpc.ClientConn) {
	for r.life.Err() == nil {
		if err := r.listen(conn); r.life.Err() == nil {
			log.G(r.life).WithError(err).Debug("forefend daemon: containerd's events end; containers are identified when they are asked about")
		}
		select {
		case <-r.life.Done():
		case <-time.After(followGap):
		}
	}
}

// listen asks ahead until the stream of events ends, and returns why it did.
func (r *Resolver) listen(conn *grpc.ClientConn) error {
	stream, err := eventservice.NewEventsClient(conn).Subscribe(r.life, &eventservice.SubscribeRequest{
		Filters: filters(),
	})
	if err != nil {
		return err
	}
	r.known.follow(conn, true)
	defer r.known.follow(conn, false)
	for {
		envelope, err := stream.Recv()
		if err != nil {
			return err
		}
		var created eventsapi.ContainerCreate
		if envelope.Event == nil {
			continue
		}
		if strings.HasPrefix(envelope.Topic, imageTopics) {
			r.heardOfImage(conn, envelope)
			continue
		}
		if envelope.Topic != createdTopic || envelope.Event.UnmarshalTo(&created) != nil || !ours(&created) {
			continue
		}
		id := workload.ID{Namespace: envelope.Namespace, Container: created.ID}
		if id.Validate() != nil {
			continue
		}
		r.prefetch(conn, id, created.Image)
	}
}

// filters select the creation of containers, and what happens to images.
func filters() []string {
	return []string{`topic=="` + createdTopic + `"`, `topic~="^` + imageTopics + `"`}
}

// heardOfImage forgets what was known of an image that changed, and hands on that there is a new one.
func (r *Resolver) heardOfImage(conn *grpc.ClientConn, envelope *types.Envelope) {
	event, err := envelope.Event.UnmarshalNew()
	if err != nil {
		r.known.follow(conn, true) // whatever it is about
		return
	}
	if e, ok := event.(interface{ GetName() string }); ok {
		r.known.forget(named{conn, envelope.Namespace, e.GetName()})
	}
	if created, ok := event.(*eventsapi.ImageCreate); ok && r.listener != nil && namespaceOf(envelope) {
		r.pass(conn, envelope.Namespace, created)
	}
}

// namespaceOf reports whether an event says of which namespace it is.
func namespaceOf(e *types.Envelope) bool {
	return workload.ID{Namespace: e.Namespace, Container: "x"}.Validate() == nil
}

// listenTime bounds what a listener does about one event.
const listenTime = 30 * time.Second

// pass hands an event on, unless as many as may be are being looked at: who needs the answer asks for it again.
func (r *Resolver) pass(conn *grpc.ClientConn, namespace string, event any) {
	if r.listener == nil {
		return
	}
	select {
	case r.listening <- struct{}{}:
	default:
		return
	}
	r.late.Go(func() {
		defer func() { <-r.listening }()
		ctx, cancel := context.WithTimeout(r.life, listenTime)
		defer cancel()
		r.listener(ctx, conn, namespace, event)
	})
}

// ours reports whether the container will be run by this runtime, as far as its name
// says: containerd can be told to run any shim under the name of another.
func ours(c *eventsapi.ContainerCreate) bool {
	return c.Runtime != nil && strings.Contains(path.Base(c.Runtime.Name), runtimeWord)
}

func (r *Resolver) prefetch(conn *grpc.ClientConn, id workload.ID, name string) {
	var image workload.Image
	if f, ok, _ := r.known.get(named{conn, id.Namespace, name}); ok {
		image = workload.Image{Name: name, Repository: repository(name), Digest: f.digest, Labels: f.labels}
	}
	e := r.ahead.begin(id, image)
	r.late.Go(func() {
		ctx, cancel := context.WithTimeout(r.life, afterthought)
		defer cancel()
		var c *containersapi.Container
		e.image, c, e.err = r.fetch(ctx, conn, id, "")
		close(e.done)
		if c != nil {
			r.pass(conn, id.Namespace, Created{c, e.image})
		}
	})
}

// early waits for an answer that was asked for ahead. It reports false where there is none that helps.
func (r *Resolver) early(ctx context.Context, id workload.ID) (workload.Image, bool) {
	e := r.ahead.take(id)
	if e == nil {
		return workload.Image{}, false
	}
	if e.known.Digest != "" {
		select {
		case <-e.done:
		default:
			return e.known, true
		}
	}
	select {
	case <-e.done:
		return e.image, e.err == nil && e.image.Name != ""
	case <-ctx.Done():
		return workload.Image{}, false
	}
}
