package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
)

// questions are what an agent asks its shim, which the test answers.
type questions chan chan string

// Ask implements agent.Asker. The answer "" is an error.
func (q questions) Ask(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	answer := make(chan string)
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
			for _, answer := range [][]string{{"one"}, {"two"}, {"", ""}} {
				dialled := &dialled{i: i}
				go func() {
					for _, tunnel := range answer {
						(<-shim) <- tunnel
					}
				}()
				up, err := dialAgain(t.Context(), i, c, d, dialled.dial, func(up *call) (string, io.Closer) { return up.tunnel, up })
				want := map[string][]string{"one": {"one"}, "two": {"one, closed", "two"}, "": {"one, closed"}}[answer[0]]
				if got := dialled.fates(); !slices.Equal(got, want) || (err != nil) != (answer[0] == "") {
					t.Errorf("%q: dialled %q, %+v, %v", answer, got, up, err)
				}
				i.ForgetWays()
				go func() { (<-shim) <- "one" }()
				if _, err := i.Way(t.Context(), c, d); err != nil {
					t.Fatal(err)
				}
			}
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

func (o *dialled) dial(ctx context.Context, c flow.Context, d flow.Decision) (*call, error) {
	way, err := o.i.Way(ctx, c, d)
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
