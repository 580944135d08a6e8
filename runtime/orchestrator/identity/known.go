package identity

import (
	"sync"
	"time"

	"google.golang.org/grpc"
)

const (
	maxKnown = 1024 // images that are remembered; a node has hundreds
	// knownFor bounds how long an answer serves if containerd's events fail to tell of a change.
	knownFor = time.Minute
)

// named is an image as one containerd knows it.
type named struct {
	conn            *grpc.ClientConn
	namespace, name string
}

// found is what containerd said of an image.
type found struct {
	asked  time.Time
	digest string
	labels map[string]string
}

// known remembers images whose containerd is followed. It tells of every change of its images, in order with the creation
// of containers, so what is remembered holds until it says otherwise or its stream of events breaks.
type known struct {
	mu       sync.Mutex
	follows  map[*grpc.ClientConn]bool // guarded by mu
	images   map[named]found           // guarded by mu
	changing uint64                    // how often something was forgotten; guarded by mu
}

// follow notes whether the events of a containerd are heard from now on. What was known of it is forgotten.
func (k *known) follow(conn *grpc.ClientConn, heard bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changing++
	if k.follows == nil {
		k.follows, k.images = make(map[*grpc.ClientConn]bool), make(map[named]found)
	}
	k.follows[conn] = heard
	for n := range k.images {
		if n.conn == conn {
			delete(k.images, n)
		}
	}
}

// forget drops an image that has changed.
func (k *known) forget(n named) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changing++
	delete(k.images, n)
}

// get returns what is known of an image, and what add wants to know.
func (k *known) get(n named) (f found, ok bool, since uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok = k.images[n]
	if !ok || time.Since(f.asked) > knownFor {
		return found{}, false, k.changing
	}
	return f, true, k.changing
}

// add remembers an answer, unless something was forgotten since the question: the answer may be older than that.
func (k *known) add(n named, f found, since uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.follows[n.conn] || since != k.changing {
		return
	}
	if len(k.images) >= maxKnown {
		clear(k.images)
	}
	k.images[n] = f
}
