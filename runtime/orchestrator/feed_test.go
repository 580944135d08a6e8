package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

func filled(n int) *feed {
	f := newFeed(nil)
	for i := range n {
		f.publish(api.Event{Kind: api.EventLearned, ID: containerID([]string{"even", "odd"}[i%2]), Message: fmt.Sprint(i + 1)})
	}
	return f
}

// numbers are the events' numbers as one string, "7-9", or "" for none.
func numbers(r api.EventsResponse) string {
	if len(r.Events) == 0 {
		return ""
	}
	for i, e := range r.Events {
		if i > 0 && e.Seq <= r.Events[i-1].Seq {
			return "out of order"
		}
	}
	return fmt.Sprintf("%d-%d", r.Events[0].Seq, r.Events[len(r.Events)-1].Seq)
}

func TestReadingTheFeed(t *testing.T) {
	odd := containerID("odd")
	for name, test := range map[string]struct {
		events     int
		req        api.EventsRequest
		want       string
		next, lost uint64
	}{
		"nothing yet":                      {0, api.EventsRequest{}, "", 0, 0},
		"from the start":                   {5, api.EventsRequest{}, "1-5", 5, 0},
		"after some":                       {5, api.EventsRequest{After: 3}, "4-5", 5, 0},
		"after all":                        {5, api.EventsRequest{After: 5}, "", 5, 0},
		"after more than there are":        {5, api.EventsRequest{After: 50}, "", 5, 0},
		"limited":                          {9, api.EventsRequest{After: 2, Limit: 3}, "3-5", 5, 0},
		"limited by default":               {3000, api.EventsRequest{}, "1-1000", 1000, 0},
		"limit too high":                   {3000, api.EventsRequest{Limit: 1 << 40}, "1-1000", 1000, 0},
		"the newest":                       {9, api.EventsRequest{Tail: true, Limit: 3}, "7-9", 9, 0},
		"the newest of few":                {2, api.EventsRequest{Tail: true, Limit: 3}, "1-2", 2, 0},
		"the newest of none":               {0, api.EventsRequest{Tail: true}, "", 0, 0},
		"one container's":                  {9, api.EventsRequest{ID: odd}, "2-8", 9, 0},
		"one container's newest":           {9, api.EventsRequest{ID: odd, Tail: true, Limit: 2}, "6-8", 9, 0},
		"of one that does not exist":       {9, api.EventsRequest{ID: containerID("x")}, "", 9, 0},
		"older than what is kept":          {maxEvents + 10, api.EventsRequest{After: 4, Limit: 2}, "11-12", 12, 6},
		"the newest when the ring is full": {2*maxEvents + 3, api.EventsRequest{Tail: true, Limit: 2}, "8194-8195", 8195, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := filled(test.events).read(t.Context(), test.req)
			if numbers(got) != test.want || got.Next != test.next || got.Lost != test.lost {
				t.Errorf("events %q, next %d, lost %d", numbers(got), got.Next, got.Lost)
			}
			for _, e := range got.Events {
				if e.Message != fmt.Sprint(e.Seq) {
					t.Errorf("event %d is another's: %q", e.Seq, e.Message)
				}
			}
		})
	}
}

// A reader that goes on with Next sees each event once.
func TestPagingThroughTheFeed(t *testing.T) {
	f := filled(2500)
	var seen []uint64
	for after := uint64(0); ; {
		page := f.read(t.Context(), api.EventsRequest{After: after, Limit: 700})
		if len(page.Events) == 0 {
			break
		}
		for _, e := range page.Events {
			seen = append(seen, e.Seq)
		}
		after = page.Next
	}
	if len(seen) != 2500 || !slices.IsSorted(seen) || len(slices.Compact(seen)) != 2500 {
		t.Errorf("%d events", len(seen))
	}
}

func TestNumberingGoesOnAfterARestart(t *testing.T) {
	earlier := func(seqs ...uint64) (out []api.Event) {
		for _, s := range seqs {
			out = append(out, api.Event{Seq: s, Message: fmt.Sprint(s)})
		}
		return out
	}
	for name, test := range map[string]struct {
		recent []api.Event
		want   string
		lost   uint64
	}{
		"nothing known":          {nil, "1-1", 0},
		"some":                   {earlier(41, 42, 43), "41-44", 40},
		"journaled out of order": {earlier(41, 43, 42, 44), "41-45", 40},
		"the last ones swapped":  {earlier(41, 43, 42), "41-44", 40},
		"one journaled twice":    {earlier(41, 42, 42, 43), "41-44", 40},
		"a gap":                  {earlier(7, 8, 20, 21), "20-22", 19},
		"more than the ring has": {filled(maxEvents).ring, "2-4097", 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(test.recent)
			f.publish(api.Event{})
			var all []api.Event
			var lost uint64
			for after := uint64(0); ; {
				page := f.read(t.Context(), api.EventsRequest{After: after})
				if len(page.Events) == 0 {
					break
				}
				all, after, lost = append(all, page.Events...), page.Next, lost+page.Lost
			}
			if got := numbers(api.EventsResponse{Events: all}); got != test.want || lost != test.lost {
				t.Errorf("events %q, lost %d", got, lost)
			}
		})
	}
}

func TestWaitingForEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := filled(3)
		answer := make(chan api.EventsResponse, 1)
		wait := func(ctx context.Context, req api.EventsRequest) {
			go func() { answer <- f.read(ctx, req) }()
			synctest.Wait()
		}
		pending := func() bool { return len(answer) == 0 }

		wait(t.Context(), api.EventsRequest{After: 3, Wait: time.Hour})
		if !pending() {
			t.Fatal("did not wait")
		}
		f.publish(api.Event{})
		if got := <-answer; numbers(got) != "4-4" {
			t.Errorf("woken with %q", numbers(got))
		}

		// Another container's events wake nobody, and are not looked at again.
		wait(t.Context(), api.EventsRequest{After: 4, Wait: time.Hour, ID: containerID("odd")})
		f.publish(api.Event{ID: containerID("even")})
		synctest.Wait()
		if !pending() {
			t.Fatal("woken by another container's event")
		}
		f.publish(api.Event{ID: containerID("odd")})
		if got := <-answer; numbers(got) != "6-6" || got.Next != 6 {
			t.Errorf("woken with %q, next %d", numbers(got), got.Next)
		}

		// The longest wait is the daemon's, not the caller's.
		began := time.Now()
		wait(t.Context(), api.EventsRequest{After: 6, Wait: 1000 * time.Hour})
		if got := <-answer; len(got.Events) != 0 || got.Next != 6 || time.Since(began) != maxWait {
			t.Errorf("%q after %s", numbers(got), time.Since(began))
		}

		ctx, cancel := context.WithCancel(t.Context())
		wait(ctx, api.EventsRequest{After: 6, Wait: time.Minute})
		cancel()
		<-answer // the caller is gone

		// A follower of an earlier life whose last events died with it hears the new ones.
		wait(t.Context(), api.EventsRequest{After: 99, Wait: time.Minute})
		f.publish(api.Event{})
		if got := <-answer; numbers(got) != "7-7" {
			t.Errorf("a follower from the future got %q", numbers(got))
		}

		// When the daemon stops nobody is kept.
		wait(t.Context(), api.EventsRequest{After: 7, Wait: time.Minute})
		f.end()
		f.end()
		<-answer
		f.publish(api.Event{})
		if got := f.read(t.Context(), api.EventsRequest{After: 7, Wait: time.Minute}); numbers(got) != "8-8" {
			t.Errorf("after the end: %q", numbers(got))
		}
		began = time.Now()
		f.read(t.Context(), api.EventsRequest{After: 8, Wait: time.Minute})
		if time.Since(began) != 0 {
			t.Error("waited after the end")
		}
	})
}

// What a container can put into an event is bounded, and stays text.
func TestEventsAreBounded(t *testing.T) {
	long := strings.Repeat("é", 5000)
	fields := map[string]string{"exe": long, long: "x"}
	for i := range 100 {
		fields[fmt.Sprintf("field-%03d", i)] = "x"
	}
	f := newFeed(nil)
	e := f.publish(api.Event{Message: "x" + long, Kind: long, Run: long, ID: workload.ID{Namespace: long, Container: "../x"}, Fields: fields})
	size := len(e.Message) + len(e.Kind) + len(e.Run) + len(e.ID.String())
	for k, v := range e.Fields {
		size += len(k) + len(v)
		if !utf8.ValidString(v) || !utf8.ValidString(k) {
			t.Errorf("field %.20q is no text", k)
		}
	}
	if size > 12<<10 || len(e.Fields) != maxFields || !utf8.ValidString(e.Message) || !strings.HasSuffix(e.Message, "é…") {
		t.Errorf("%d bytes, %d fields, message ends with %q", size, len(e.Fields), e.Message[len(e.Message)-8:])
	}
	plain := api.Event{Kind: api.EventDenied, Message: "m", ID: containerID("a"), Fields: map[string]string{"syscall": "bpf"}}
	if got := f.publish(plain); got.Message != "m" || got.ID != plain.ID || got.Fields["syscall"] != "bpf" {
		t.Errorf("%+v", got)
	}
	fields["exe"] = "changed" // the ring must not share the caller's map
	if got := f.read(t.Context(), api.EventsRequest{}).Events[0].Fields["exe"]; got == "changed" {
		t.Error("the ring shares the caller's memory")
	}
}

// Writers and readers at once: every reader sees every event, once and in order.
func TestConcurrentFeed(t *testing.T) {
	const writers, each, readers = 8, 100, 4
	f := newFeed(nil)
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for range each {
				f.publish(api.Event{Kind: api.EventLearned})
			}
		})
	}
	for range readers {
		wait.Go(func() {
			after := uint64(0)
			for after < writers*each {
				page := f.read(t.Context(), api.EventsRequest{After: after, Limit: 7, Wait: time.Minute})
				for _, e := range page.Events {
					if e.Seq != after+1 {
						t.Errorf("event %d after %d", e.Seq, after)
						return
					}
					after = e.Seq
				}
			}
		})
	}
	wait.Wait()
	if len(f.ring) != maxEvents {
		t.Errorf("the ring has %d places", len(f.ring))
	}
}

func TestEventsRefusesNegatives(t *testing.T) {
	n := newNode(t, nil)
	for _, req := range []api.EventsRequest{{Limit: -1}, {Wait: -1}} {
		if _, err := n.Events(t.Context(), req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}
