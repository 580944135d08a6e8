package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
)

func TestAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsks()
		var asked sync.WaitGroup
		for range 10 {
			asked.Go(func() {
				body, err := a.Ask(t.Context(), "echo", []byte(`"x"`))
				if err != nil || string(body) != `"x"` {
					t.Errorf("%s, %v", body, err)
				}
			})
		}
		go func() {
			for n := 0; n < 10; {
				for _, q := range a.fetch(t.Context(), time.Minute) {
					a.answer(api.AnswerRequest{ID: q.ID + 1000}) // nobody's
					a.answer(api.AnswerRequest{ID: q.ID, Body: q.Body})
					a.answer(api.AnswerRequest{ID: q.ID, Body: q.Body}) // again
					n++
				}
			}
		}()
		asked.Wait()

		begun := time.Now()
		if got := a.fetch(t.Context(), time.Minute); got != nil || time.Since(begun) != time.Minute {
			t.Errorf("nothing asked: %v after %s", got, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Ask(ctx, "late", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody answers: %v", err)
		}
		if len(a.open) != 0 {
			t.Errorf("%d questions are left open", len(a.open))
		}
	})
}

func TestAsksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsks()
		if _, err := a.Ask(t.Context(), "long", make([]byte, api.MaxAsk+1)); err == nil {
			t.Error("a question that is too long was asked")
		}
		for range api.MaxAsks {
			go func() {
				if _, err := a.Ask(t.Context(), "one", nil); err == nil || !strings.Contains(err.Error(), "no") {
					t.Errorf("the shim's error: %v", err)
				}
			}()
		}
		synctest.Wait()
		if _, err := a.Ask(t.Context(), "more", nil); err == nil || !strings.Contains(err.Error(), "open already") {
			t.Errorf("one too many: %v", err)
		}
		for _, q := range a.fetch(t.Context(), 0) {
			a.answer(api.AnswerRequest{ID: q.ID, Error: "no"})
		}
		synctest.Wait()
	})
}

// TestLateShim: what nobody waits for any more is not asked. A shim that was held up for a while would be asked more than may be open, which it takes
// for an agent that was taken over.
func TestLateShim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsks()
		for range 3 * api.MaxAsks {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := a.Ask(ctx, "decide", nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		if got := a.fetch(t.Context(), time.Second); len(got) != 0 {
			t.Errorf("%d questions of which nobody waits for the answer", len(got))
		}
	})
}
