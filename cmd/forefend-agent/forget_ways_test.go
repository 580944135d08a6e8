package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
)

// questions are what an agent asks its shim, which the test answers.
type questions chan chan string

// Ask implements agent.Asker. The answer "" is an error.
func (q questions) Ask(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	answer := make(chan string, 1) // for who does not wait any more
	select {
	case q <- answer:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case tunnel := <-answer:
		if tunnel == "" {
			return nil, errors.New("no tunnel")
		}
		return json.Marshal(egress.Way{Tunnel: tunnel, Valid: time.Hour})
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// all answers whatever is asked from now on, until stop.
func (q questions) all(tunnel string) (stop func()) {
	ended := make(chan struct{})
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			select {
			case answer := <-q:
				answer <- tunnel
			case <-ended:
				return
			}
		}
	})
	return func() { close(ended); answering.Wait() }
}

// TestForgetWays: what was told before counts no more: for new connections, for kept ones, for what is being asked and what is being dialled.
func TestForgetWays(t *testing.T) {
	c, d := flow.Context{}, flow.Decision{}
	for name, test := range map[string]func(t *testing.T, i *interceptor, shim questions){
		"a new connection": func(t *testing.T, i *interceptor, shim questions) {
			i.ForgetWays()
			go func() { (<-shim) <- "two" }()
			if way, err := i.Way(t.Context(), c, d); err != nil || way.Tunnel != "two" {
				t.Errorf("%+v, %v", way, err)
			}
		},
		"an answer that was on its way": func(t *testing.T, i *interceptor, shim questions) {
			i.ForgetWays()
			go func() {
				first := <-shim
				i.ForgetWays()
				first <- "one"
				(<-shim) <- "two"
			}()
			if way, err := i.Way(t.Context(), c, d); err != nil || way.Tunnel != "two" {
				t.Errorf("%+v, %v", way, err)
			}
		},
		"connections that are kept": func(t *testing.T, i *interceptor, shim questions) {
			i.ForgetWays()
			keeps, first, wait := i.dialer.Keeps(&c, &d, "one")
			_, second, _ := i.dialer.Keeps(&c, &d, "one")
			if !keeps || first == nil || second != first || wait != wayWait {
				t.Errorf("kept: %v, both wait: %v, for %s", keeps, first != nil && second == first, wait)
			}
			answer := <-shim
			i.ForgetWays() // once more
			if _, third, _ := i.dialer.Keeps(&c, &d, "one"); third != first {
				t.Error("a third one does not wait")
			}
			answer <- "one"
			(<-shim) <- "two"
			<-first
			if keeps, asked, _ := i.dialer.Keeps(&c, &d, "one"); keeps || asked != nil {
				t.Errorf("kept: %v, asks: %v", keeps, asked != nil)
			}
			if keeps, asked, _ := i.dialer.Keeps(&c, &d, "two"); !keeps || asked != nil {
				t.Errorf("the other one is kept: %v, asks: %v", keeps, asked != nil)
			}
		},
		"no answer": func(t *testing.T, i *interceptor, shim questions) {
			i.ForgetWays()
			_, asked, _ := i.dialer.Keeps(&c, &d, "one")
			(<-shim) <- ""
			<-asked
			retry := func(at time.Time) {
				i.mu.Lock()
				defer i.mu.Unlock()
				i.ways[keyOf(&c, &d)].retry = at
			}
			retry(time.Now().Add(time.Hour)) // what a busy machine may take
			if keeps, asked, _ := i.dialer.Keeps(&c, &d, "one"); !keeps || asked != nil {
				t.Errorf("kept: %v, asks: %v", keeps, asked != nil)
			}
			go func() { (<-shim) <- "" }()
			if way, err := i.Way(t.Context(), c, d); err == nil {
				t.Errorf("a new connection has %+v, of before", way)
			}
			retry(time.Time{})
			_, asked, wait := i.dialer.Keeps(&c, &d, "one")
			if asked == nil || wait != keptWait {
				t.Errorf("asks: %v, waits %s", asked != nil, wait)
			}
			answer := <-shim
			i.ForgetWays()
			if _, asked, wait := i.dialer.Keeps(&c, &d, "one"); asked == nil || wait != wayWait {
				t.Errorf("asks: %v, waits %s", asked != nil, wait)
			}
			answer <- "one"
			(<-shim) <- "one"
			<-asked
			if keeps, asked, _ := i.dialer.Keeps(&c, &d, "one"); !keeps || asked != nil {
				t.Errorf("kept: %v, asks: %v", keeps, asked != nil)
			}
		},
		"what is being dialled": func(t *testing.T, i *interceptor, shim questions) {
			for _, answer := range []string{"one", "two", ""} {
				dialled := &dialled{i: i}
				stop := shim.all(answer)
				up, err := dialAgain(t.Context(), i, c, d, dialled.dial, func(up *call) (string, io.Closer) { return up.tunnel, up })
				want := map[string][]string{"one": {"one"}, "two": {"one, closed", "two"}, "": {"one, closed"}}[answer]
				i.renewing.Wait()
				stop()
				if got := dialled.fates(); !slices.Equal(got, want) || (err != nil) != (answer == "") {
					t.Errorf("%q: dialled %q, %+v, %v", answer, got, up, err)
				}
				i.ForgetWays()
				go func() { (<-shim) <- "one" }()
				if _, err := i.Way(t.Context(), c, d); err != nil {
					t.Fatal(err)
				}
			}
		},
		"what is being dialled by a tunnel that does not answer": func(t *testing.T, i *interceptor, shim questions) {
			reached := &call{tunnel: "two"}
			// hangs dials until that is given up, and tells how that began.
			hangs := func(began chan<- string) func(o *dialling) (*call, error) {
				return func(o *dialling) (*call, error) {
					way, err := o.Way(o.ctx, o.context, o.decision)
					if err != nil {
						return nil, err
					}
					began <- way.Tunnel
					if way.Tunnel == reached.tunnel {
						return reached, nil
					}
					<-o.ctx.Done()
					return nil, o.ctx.Err()
				}
			}
			began, done := make(chan string), make(chan error, 3)
			begins := func() string {
				select {
				case by := <-began:
					return by
				case <-time.After(30 * time.Second):
					t.Fatal("nothing is dialled any more")
					return ""
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			dials := func() {
				up, err := dialAgain(ctx, i, c, d, hangs(began), func(up *call) (string, io.Closer) { return up.tunnel, up })
				if err == nil && up != reached {
					err = errors.New("another one")
				}
				done <- err
			}
			for _, answers := range [][]string{{""}, {"one"}, {"", "one"}} { // nobody knows a better way: it is not given up
				go dials()
				if by := begins(); by != "one" {
					t.Errorf("it is dialled by %s", by)
				}
				for _, answer := range answers {
					i.ForgetWays()
					(<-shim) <- answer
					i.renewing.Wait()
				}
				i.mu.Lock()
				n := len(i.dialling)
				i.mu.Unlock()
				if len(done) > 0 || n != 1 {
					t.Fatalf("%q: %d are being dialled", answers, n)
				}
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("%q: %v", answers, err)
				}
				ctx, cancel = context.WithCancel(t.Context())
				i.ForgetWays()
				go func() { (<-shim) <- "one" }()
				if _, err := i.Way(ctx, c, d); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				go dials()
				begins()
			}
			i.ForgetWays()
			first := <-shim
			i.ForgetWays() // nobody asks twice for that, but once more
			first <- "one"
			defer shim.all("two")()
			for range 3 {
				if by := begins(); by != "two" {
					t.Errorf("it is dialled by %s", by)
				}
			}
			for range 3 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if len(i.dialling) != 0 {
				t.Errorf("%d are being dialled", len(i.dialling))
			}
			cancel()
		},
	} {
		t.Run(name, func(t *testing.T) {
			shim := make(questions)
			made, err := newInterceptor(shim)
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			i := made.(*interceptor)
			go func() { (<-shim) <- "one" }()
			if way, err := i.Way(t.Context(), c, d); err != nil || way.Tunnel != "one" {
				t.Fatalf("%+v, %v", way, err)
			}
			test(t, i, shim)
		})
	}
}

// dialled are calls during the first of which ways are forgotten.
type dialled struct {
	i   *interceptor
	all []*call
}

type call struct {
	tunnel string
	closed bool
}

func (c *call) Close() error { c.closed = true; return nil }

func (o *dialled) dial(by *dialling) (*call, error) {
	way, err := by.Way(by.ctx, by.context, by.decision)
	if err != nil {
		return nil, err
	}
	up := &call{tunnel: way.Tunnel}
	if o.all = append(o.all, up); len(o.all) == 1 {
		o.i.ForgetWays()
	}
	return up, nil
}

func (o *dialled) fates() (fates []string) {
	for _, c := range o.all {
		if c.closed {
			c.tunnel += ", closed"
		}
		fates = append(fates, c.tunnel)
	}
	return fates
}
