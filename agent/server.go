package agent

import (
	"context"
	"encoding/json"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/calls"
	"forefend.dev/forefend/agent/notify"
	"forefend.dev/forefend/agent/sockets"
)

// server answers the shim.
type server struct {
	build, kernel string
	started       time.Time
	queue         *queue
	watcher       *watcher
	running       sync.WaitGroup
	ctx           context.Context // of what runs beside calls; ends with close
	stop          context.CancelFunc
	asks          *asks
	interceptor   Interceptor // nil: none

	mu       sync.Mutex
	shaken   bool           // the handshake was made; guarded by mu
	listen   *sockets.Table // the watcher's own; nil: the kernel does not tell; guarded by mu
	notify   *notify.Socket // nil: none; guarded by mu
	muted    bool           // application messages are dropped; guarded by mu
	watching time.Duration  // guarded by mu
	revision int            // guarded by mu
}

func newServer(build, kernel string) *server {
	s := &server{build: build, kernel: kernel, started: time.Now(), queue: newQueue(), asks: newAsks(), watching: maxWatch}
	s.watcher = newWatcher(s.queue)
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// close ends what runs beside calls and waits for it.
func (s *server) close() {
	s.stop()
	if s.interceptor != nil {
		s.interceptor.Close()
	}
	s.mu.Lock()
	if s.notify != nil {
		_ = s.notify.Close() // nobody is left to be told
	}
	s.mu.Unlock()
	s.running.Wait()
	if s.listen != nil {
		_ = s.listen.Close() // likewise
	}
}

func (s *server) methods() map[string]calls.Method {
	return map[string]calls.Method{
		"Handshake":  method(s.handshake),
		"Apply":      method(s.after(s.apply)),
		"Dump":       method(s.dump),
		"Events":     method(s.events),
		"Health":     method(s.health),
		"Intercept":  method(s.intercept),
		"Forget":     method(s.forget),
		"ForgetWays": method(s.forgetWays),
		"Flows":      method(s.flows),
		"Accounts":   method(s.accounts),
		"Asks":       method(s.fetchAsks),
		"Answer":     method(s.answerAsk),
	}
}

// method adapts a typed function to a call with a JSON body.
func method[Req, Resp any](f func(context.Context, Req) (Resp, error)) calls.Method {
	return func(ctx context.Context, body []byte) ([]byte, error) {
		var req Req
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, calls.Errorf(calls.InvalidArgument, "decode %T: %v", req, err)
		}
		resp, err := f(ctx, req)
		if err != nil {
			return nil, err
		}
		return json.Marshal(resp)
	}
}

// after refuses a call before the handshake.
func (s *server) after(f func(context.Context, api.ApplyRequest) (api.ApplyResponse, error)) func(context.Context, api.ApplyRequest) (api.ApplyResponse, error) {
	return func(ctx context.Context, r api.ApplyRequest) (api.ApplyResponse, error) {
		s.mu.Lock()
		shaken := s.shaken
		s.mu.Unlock()
		if !shaken {
			return api.ApplyResponse{}, calls.Errorf(calls.FailedPrecondition, "the handshake comes first")
		}
		return f(ctx, r)
	}
}

func (s *server) handshake(_ context.Context, r api.HandshakeRequest) (api.HandshakeResponse, error) {
	if r.Oldest > api.Version || r.Version < api.Oldest {
		return api.HandshakeResponse{}, calls.Errorf(calls.FailedPrecondition,
			"the shim speaks versions %d to %d, this agent %d to %d: install both from one build", r.Oldest, r.Version, api.Oldest, api.Version)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shaken {
		return api.HandshakeResponse{}, calls.Errorf(calls.FailedPrecondition, "the handshake was made before")
	}
	s.shaken = true
	out := api.HandshakeResponse{Version: api.Version, Build: s.build, Kernel: s.kernel, PID: os.Getpid()}
	facts(&out)
	if table, err := sockets.Open(); err != nil {
		out.Degraded = append(out.Degraded, "listening sockets are not seen: "+err.Error())
	} else if _, err := s.watcher.look(table); err != nil { // a kernel without the module says so here
		_ = table.Close() // it is of no use
		out.Degraded = append(out.Degraded, "listening sockets are not seen: "+err.Error())
	} else {
		s.listen = table
		out.Features = append(out.Features, "sock_diag")
		s.running.Go(func() { s.watcher.run(s.ctx, table) })
	}
	if r.Notify != "" {
		socket, err := notify.Listen(r.Notify)
		if err != nil {
			out.Degraded = append(out.Degraded, "application messages are not heard: "+err.Error())
		} else {
			s.notify = socket
			out.Features = append(out.Features, "notify")
			s.running.Go(func() { socket.Run(s.heard) })
		}
	}
	return out, nil
}

// heard takes an event of the application's socket.
func (s *server) heard(e api.Event) {
	s.mu.Lock()
	muted := s.muted
	s.mu.Unlock()
	if !muted {
		s.queue.add(e)
	}
}

func (s *server) apply(_ context.Context, r api.ApplyRequest) (api.ApplyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Revision < s.revision {
		return api.ApplyResponse{}, calls.Errorf(calls.FailedPrecondition, "revision %d, %d is in force", r.Revision, s.revision)
	}
	s.revision = r.Revision
	out := api.ApplyResponse{Revision: s.revision}
	for _, d := range r.Dimensions {
		out.Results = append(out.Results, s.applyLocked(d))
	}
	return out, nil
}

func (s *server) applyLocked(d api.Dimension) api.Result {
	r := api.Result{Name: d.Name, Status: api.Applied}
	refuse := func(reason string) api.Result {
		r.Status, r.Reason = api.Refused, reason
		return r
	}
	switch d.Name {
	case api.DimensionNotify:
		muted := d.Value == "off"
		switch {
		case d.Value != "on" && d.Value != "off":
			return refuse("neither on nor off")
		case !muted && s.notify == nil:
			return refuse("there is no socket for application messages; it is made at the start")
		case muted == s.muted:
			r.Status = api.Unchanged
		}
		s.muted = muted
	case api.DimensionWatch:
		every, err := time.ParseDuration(d.Value)
		switch {
		case err != nil || every < 0 || every > 0 && every < firstLook || every > time.Hour:
			return refuse("not a duration of 100ms to 1h, nor 0s")
		case s.listen == nil:
			return refuse("the kernel does not tell of sockets here")
		case every == s.watching:
			r.Status = api.Unchanged
			return r
		}
		select {
		case s.watcher.every <- every:
			s.watching = every
		case <-s.ctx.Done():
			return refuse("the agent ends")
		}
	default:
		return refuse("not a dimension of this agent's")
	}
	return r
}

const maxConnections = 1000

func (s *server) dump(_ context.Context, r api.DumpRequest) (api.DumpResponse, error) {
	s.mu.Lock()
	able := s.listen != nil
	s.mu.Unlock()
	if !able {
		return api.DumpResponse{}, calls.Errorf(calls.FailedPrecondition, "the kernel does not tell of sockets here, or the handshake was not made")
	}
	table, err := sockets.Open() // its own: the watcher's may be in the middle of an answer
	if err != nil {
		return api.DumpResponse{}, err
	}
	defer table.Close()
	limit := maxConnections
	if r.Limit > 0 {
		limit = min(limit, r.Limit)
	}
	out := api.DumpResponse{Listening: []api.Socket{}, Connections: []api.Socket{}}
	servers := func(sock api.Socket) bool {
		out.Listening = append(out.Listening, sock)
		return len(out.Listening) < maxListening
	}
	if err := table.Listening(servers); err != nil {
		return out, err
	}
	if err := table.Bound(servers); err != nil {
		return out, err
	}
	err = table.Connected(func(sock api.Socket) bool {
		if len(out.Connections) < limit {
			out.Connections = append(out.Connections, sock)
		} else {
			out.Left++
		}
		return true
	})
	return out, err
}

// maxWait bounds how long a call for events waits.
const maxWait = 5 * time.Minute

func (s *server) events(ctx context.Context, r api.EventsRequest) (api.EventsResponse, error) {
	return s.queue.after(ctx, r.After, min(r.Wait, maxWait)), nil
}

type none struct{}

func (s *server) health(context.Context, none) (api.HealthResponse, error) {
	s.mu.Lock()
	out := api.HealthResponse{Revision: s.revision, Watch: s.watching.String()}
	s.mu.Unlock()
	out.Uptime, out.Goroutines, out.Events = time.Since(s.started), runtime.NumGoroutine(), s.queue.count()
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	out.Memory = int64(sample[0].Value.Uint64() - sample[1].Value.Uint64())
	files := mostFiles
	if s.interceptor != nil {
		files = 4096 // low numbers are taken first: beyond that it is a lot anyway
	}
	for fd := range files {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			out.Files++
		}
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err == nil {
		out.CPU = time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	return out, nil
}
