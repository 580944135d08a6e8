package central

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/certificates"
)

const patient = time.Minute

// TestDecides: a question goes to the central daemon once; what is known is answered here, for as long as its epoch and validity last.
func TestDecides(t *testing.T) {
	r := newRig(t, []string{"node-*"}, 1000)
	r.desk.answer = func(d *flow.Decision, q *api.Question) {
		if q.Context.Host == "brief" {
			d.Valid = time.Minute
		}
		if q.Load == 70 {
			d.Reason = "busy"
		}
	}
	c, states := r.client(r.dialer("node-1"), patient, time.Minute)
	await(t, states, "connected", connected)
	now := time.Now()
	for range 3 {
		d, err := c.Decide(t.Context(), &flow.Context{Host: "a"}, 0, now)
		if err != nil || d.Reason != "node-1 a" || d.Epoch != 1000 {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if n := r.desk.total(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if d, err := c.Decide(t.Context(), &flow.Context{Host: "b"}, 70, now); err != nil || d.Reason != "busy" {
		t.Errorf("%+v, %v", d, err)
	}
	for i, want := range []time.Duration{time.Minute, 20 * time.Second, time.Minute} {
		at := now.Add(time.Duration(i) * 40 * time.Second)
		if d, err := c.Decide(t.Context(), &flow.Context{Host: "brief"}, 0, at); err != nil || d.Valid != want {
			t.Errorf("%d: valid for %s, want %s (%v)", i, d.Valid, want, err)
		}
	}
}

// TestEpoch: who waits is told of other rules, and nothing is answered by the old ones then.
func TestEpoch(t *testing.T) {
	r := newRig(t, []string{"*"}, 1000)
	c, states := r.client(r.dialer("n"), patient, time.Minute)
	await(t, states, "connected", connected)
	if _, err := c.Decide(t.Context(), &flow.Context{Host: "a"}, 0, time.Now()); err != nil {
		t.Fatal(err)
	}
	first, err := next(t.Context(), c, 0)
	if err != nil || first != 1000 {
		t.Fatalf("%d, %v", first, err)
	}
	began := time.Now()
	want := r.desk.turn()
	got, err := next(t.Context(), c, first)
	if err != nil || got != want {
		t.Fatalf("%d, %v", got, err)
	}
	t.Logf("told after %s", time.Since(began))
	if d, err := c.Decide(t.Context(), &flow.Context{Host: "a"}, 0, time.Now()); err != nil || d.Epoch != want {
		t.Errorf("%+v, %v", d, err)
	}
	if !c.AsksRisk() {
		t.Error("whether the rules ask for the risk was not told")
	}
}

// TestTogether: what is asked while messages are under way shares the next one, and each gets its own answer.
func TestTogether(t *testing.T) {
	r := newRig(t, []string{"*"}, 100_000)
	c, states := r.client(r.dialer("n"), patient, time.Minute)
	await(t, states, "connected", connected)
	var messages, most int
	var mu sync.Mutex
	send := c.batches.send
	c.batches.send = func(ctx context.Context, q []api.Question) ([]flow.Decision, error) {
		mu.Lock()
		messages, most = messages+1, max(most, len(q))
		mu.Unlock()
		return send(ctx, q)
	}
	slow := make(chan struct{})
	r.desk.mu.Lock()
	r.desk.slow = slow
	r.desk.mu.Unlock()
	const n = 1000
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			host := fmt.Sprint("h", i)
			if d, err := c.Decide(t.Context(), &flow.Context{Host: host}, 0, time.Now()); err != nil || d.Reason != "n "+host {
				t.Errorf("%s: %+v, %v", host, d, err)
			}
		})
	}
	for waiting := 0; waiting < n-maxFlying; time.Sleep(time.Millisecond) {
		c.batches.mu.Lock()
		waiting = len(c.batches.waiting)
		c.batches.mu.Unlock()
	}
	close(slow)
	all.Wait()
	if want := maxFlying + (n+api.MaxQuestions-1)/api.MaxQuestions; messages > want || most > api.MaxQuestions || r.desk.total() != n {
		t.Errorf("%d messages, at most %d questions in one; %d asked", messages, most, r.desk.total())
	}
}

// TestSlow: an answer that does not come in time is none, for those who share a message too.
func TestSlow(t *testing.T) {
	r := newRig(t, []string{"*"}, 1000)
	const within = 50 * time.Millisecond
	c, states := r.client(r.dialer("n"), within, time.Minute)
	await(t, states, "connected", connected)
	slow := make(chan struct{})
	r.desk.slow = slow
	defer close(slow)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			began := time.Now()
			d, err := c.Decide(t.Context(), &flow.Context{Host: fmt.Sprint(i)}, 0, time.Now())
			if took := time.Since(began); err == nil || took < within/2 || took > within+5*time.Second {
				t.Errorf("%+v, %v after %s", d, err, took)
			}
		})
	}
	all.Wait()
}

// TestGrace: with the central daemon away what is known holds for the grace, then nothing; once it is back it decides again.
func TestGrace(t *testing.T) {
	r := newRig(t, []string{"*"}, 1000)
	const grace = 300 * time.Millisecond
	c, states := r.client(r.dialer("n"), patient, grace)
	await(t, states, "connected", connected)
	known := &flow.Context{Host: "known"}
	if _, err := c.Decide(t.Context(), known, 0, time.Now()); err != nil {
		t.Fatal(err)
	}
	epoch, _ := next(t.Context(), c, 0)
	waits := make(chan error, 1)
	go func() { _, err := next(context.Background(), c, epoch); waits <- err }()
	stopped := time.Now()
	r.stop()
	await(t, states, "away", func(s State) bool { return s.Away != nil && !s.Ended })
	if err := <-waits; !errdefs.IsUnavailable(err) {
		t.Errorf("who waits for the epoch: %v", err)
	}
	if _, err := c.Decide(t.Context(), known, 0, time.Now()); err != nil {
		if took := time.Since(stopped); took < grace {
			t.Errorf("what is known, within the grace: %v", err)
		} else {
			t.Logf("on this machine the grace was over before it could be asked, after %s: %v", took, err)
		}
	}
	if _, err := c.Decide(t.Context(), &flow.Context{Host: "new"}, 0, time.Now()); !errdefs.IsUnavailable(err) {
		t.Errorf("what is not known: %v", err)
	}
	await(t, states, "the grace over", func(s State) bool { return s.Ended })
	if d, err := c.Decide(t.Context(), known, 0, time.Now()); !errdefs.IsUnavailable(err) {
		t.Errorf("after the grace: %+v, %v", d, err)
	}
	r.serve(r.address)
	await(t, states, "connected again", connected)
	if d, err := c.Decide(t.Context(), known, 0, time.Now()); err != nil || d.Epoch != epoch {
		t.Errorf("%+v, %v", d, err)
	}
	if again, err := next(t.Context(), c, 0); err != nil || again != epoch {
		t.Errorf("%d, %v", again, err)
	}
}

// TestStrangers: who cannot prove an allowed name is not answered, and a node believes no other daemon.
func TestStrangers(t *testing.T) {
	r := newRig(t, []string{"node-*.test"}, 1000)
	other := certificates.New(t)
	foreignCert, foreignKey := other.Issue(t, "node-1.test")
	cert, key := r.ca.Issue(t, "node-1.test")
	for name, dial := range map[string]func(context.Context) (net.Conn, error){
		"another name":            r.dialer("client.test"),
		"another authority":       (&credentials.Files{CA: r.ca.File, Cert: foreignCert, Key: foreignKey}).Dialer(r.address, "pdp.test"),
		"a daemon of others":      (&credentials.Files{CA: other.File, Cert: cert, Key: key}).Dialer(r.address, "pdp.test"),
		"a daemon of other names": (&credentials.Files{CA: r.ca.File, Cert: cert, Key: key}).Dialer(r.address, "else.test"),
		"no files":                (&credentials.Files{CA: "/none", Cert: cert, Key: key}).Dialer(r.address, "pdp.test"),
		"no PEM":                  (&credentials.Files{CA: "/dev/null", Cert: cert, Key: key}).Dialer(r.address, "pdp.test"),
		"another key":             (&credentials.Files{CA: r.ca.File, Cert: cert, Key: foreignKey}).Dialer(r.address, "pdp.test"),
		"plain TCP":               func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", r.address) },
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			c, states := r.client(dial, patient, time.Minute)
			await(t, states, "away", func(s State) bool { return s.Away != nil })
			if d, err := c.Decide(t.Context(), &flow.Context{}, 0, time.Now()); err == nil {
				t.Errorf("%+v", d)
			}
		})
	}
	r.t = t
	if n := r.desk.total(); n != 0 {
		t.Errorf("%d questions of strangers were answered", n)
	}
	if c := r.server.Counts(); c.Strangers == 0 {
		t.Errorf("%+v", c)
	}
}

// dial connects a client that is not a Client.
func (r *rig) raw(t *testing.T, name string) (*api.CentralClient, net.Conn) {
	t.Helper()
	conn, err := r.dialer(name)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewCentralClient(conn)
	t.Cleanup(func() { _ = c.Close() })
	return c, conn
}

// TestBounds: a node that asks too much is refused and others are not.
func TestBounds(t *testing.T) {
	r := newRig(t, []string{"*"}, 1) // so slow a rate that a busy machine does not wait for another message's worth
	c, _ := r.raw(t, "greedy")
	ask := func(c *api.CentralClient, version, n int, text string) error {
		questions := make([]api.Question, n)
		for i := range questions {
			questions[i].Context.Path = text
		}
		got, err := c.Decide(t.Context(), api.CentralRequest{Version: version, Questions: questions})
		if err == nil && len(got.Answers) != n {
			t.Errorf("%d answers to %d questions", len(got.Answers), n)
		}
		return err
	}
	for _, q := range []struct {
		what       string
		version, n int
		text       string
		is         func(error) bool
	}{
		{"another version", flow.Version + 1, 1, "", errdefs.IsNotImplemented},
		{"no question", flow.Version, 0, "", errdefs.IsInvalidArgument},
		{"too many", flow.Version, api.MaxQuestions + 1, "", errdefs.IsInvalidArgument},
		{"a full message", flow.Version, api.MaxQuestions, "", func(err error) bool { return err == nil }},
		{"another at once", flow.Version, api.MaxQuestions, "", errdefs.IsResourceExhausted},
	} {
		if err := ask(c, q.version, q.n, q.text); !q.is(err) {
			t.Errorf("%s: %v", q.what, err)
		}
	}
	if _, err := c.Epoch(t.Context(), api.CentralEpochRequest{Versions: []int{flow.Version + 1}}); !errdefs.IsNotImplemented(err) {
		t.Errorf("a node of other versions: %v", err)
	}
	if e, err := c.Epoch(t.Context(), api.CentralEpochRequest{Versions: []int{flow.Version + 1, flow.Version}}); err != nil || e.Version != flow.Version {
		t.Errorf("%+v, %v", e, err)
	}
	if wordy, _ := r.raw(t, "wordy"); !errdefs.IsInvalidArgument(ask(wordy, flow.Version, 1, strings.Repeat("x", maxQuestion+1))) {
		t.Error("too long a question was answered")
	}
	other, _ := r.raw(t, "modest")
	if err := ask(other, flow.Version, 1, ""); err != nil {
		t.Errorf("another node: %v", err)
	}
	// A message beyond the bound costs the connection.
	if err := ask(other, flow.Version, 200, strings.Repeat("x", 8<<10)); err == nil {
		t.Error("a message of 1.6 MiB was answered")
	}
	// As many connections as one name may have, and no more.
	for range maxConnsOf - 1 {
		c, _ := r.raw(t, "greedy")
		if _, err := c.Epoch(t.Context(), api.CentralEpochRequest{Versions: versions}); err != nil {
			t.Error(err)
		}
	}
	c, _ = r.raw(t, "greedy")
	if _, err := c.Epoch(t.Context(), api.CentralEpochRequest{Versions: versions}); err == nil {
		t.Error("one connection too many was answered")
	}
	if got := r.server.Counts(); got.Crowding == 0 || got.Hasty == 0 {
		t.Errorf("%+v", got)
	}
}

// TestCrowd: connections that never greet are dropped, and do not keep a node out.
func TestCrowd(t *testing.T) {
	r := newRig(t, []string{"*"}, 1000)
	for range maxGreetings + 10 {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	_, states := r.client(r.dialer("n"), patient, time.Minute)
	await(t, states, "connected", connected)
}

// FuzzMessages sends anything as what comes after the handshake.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x01\x01\x00hi"))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x01\x01\x00"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	d := newDesk()
	s := NewServer(d, &credentials.Files{}, []string{"*"}, 1000)
	f.Fuzz(func(t *testing.T, data []byte) {
		here, there := net.Pipe()
		done := make(chan struct{})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		go func() {
			defer close(done)
			s.serve(ctx, there, &node{s, "n", func(int) bool { return true }}, time.Now().Add(time.Minute))
		}()
		go func() {
			_, _ = here.Write(data)
			_ = here.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, _ = here.Read(make([]byte, 1<<16))
			_ = here.Close()
		}()
		<-done
	})
}
