package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/calls"
)

// asks are questions of this agent's to the shim, which fetches them and answers by number: the shim is the client of the
// channel, and a taken-over agent must not be able to call it.
type asks struct {
	mu      sync.Mutex
	next    uint64                            // of the next question; guarded by mu
	waiting []api.Ask                         // not fetched yet; guarded by mu
	open    map[uint64]chan api.AnswerRequest // not answered yet; guarded by mu
	more    chan struct{}                     // closed when there is another question; guarded by mu
}

func newAsks() *asks {
	return &asks{next: 1, open: make(map[uint64]chan api.AnswerRequest), more: make(chan struct{})}
}

// Ask implements Asker.
func (a *asks) Ask(ctx context.Context, method string, body []byte) ([]byte, error) {
	if len(body) > api.MaxAsk {
		return nil, fmt.Errorf("a question of %d bytes, the most is %d", len(body), api.MaxAsk)
	}
	id, answer, err := a.put(method, body)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-answer:
		if r.Error != "" {
			return nil, errors.New(r.Error)
		}
		return r.Body, nil
	case <-ctx.Done():
		a.drop(id)
		return nil, ctx.Err()
	}
}

func (a *asks) put(method string, body []byte) (uint64, <-chan api.AnswerRequest, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.open) >= api.MaxAsks {
		return 0, nil, fmt.Errorf("%d questions are open already", api.MaxAsks)
	}
	id, answer := a.next, make(chan api.AnswerRequest, 1)
	a.next++
	a.open[id] = answer
	a.waiting = append(a.waiting, api.Ask{ID: id, Method: method, Body: body})
	close(a.more)
	a.more = make(chan struct{})
	return id, answer, nil
}

// drop forgets a question that nobody waits for any more. The shim that comes late is not asked it: it takes no more than may be open.
func (a *asks) drop(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, id)
	a.waiting = slices.DeleteFunc(a.waiting, func(q api.Ask) bool { return q.ID == id })
}

// fetch waits until there are questions, within ctx and for as long as wait.
func (a *asks) fetch(ctx context.Context, wait time.Duration) []api.Ask {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		a.mu.Lock()
		if got := a.waiting; len(got) > 0 {
			a.waiting = nil
			a.mu.Unlock()
			return got
		}
		more := a.more
		a.mu.Unlock()
		select {
		case <-more:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// answer hands an answer to who waits for it.
func (a *asks) answer(r api.AnswerRequest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.open[r.ID]; c != nil {
		delete(a.open, r.ID)
		c <- r // it has room for one
	}
}

// Asker asks the shim.
type Asker interface {
	// Ask waits for the answer, within ctx. The error is the shim's, or says that too many questions are open.
	Ask(ctx context.Context, method string, body []byte) ([]byte, error)
}

// Interceptor takes the outbound connections of the network namespace. cmd gives the agent netns/intercept as one.
type Interceptor interface {
	// Set has it understand requests by these settings, from the next one on. The first time it begins.
	Set(api.InterceptRequest) (api.InterceptResponse, error)
	// Forget has decisions of before an epoch count no more; when it returns, none is in use.
	Forget(api.ForgetRequest) error
	// ForgetWays has tunnels that it was told before count no more; when it returns, nothing begins by them.
	ForgetWays()
	// Flows tells of the connections there are, and of what was counted.
	Flows() (api.FlowsResponse, error)
	// Accounts tells what was counted of them where a gateway counts, too.
	Accounts(api.AccountsRequest) (api.AccountsResponse, error)
	// Close ends all of them.
	Close()
}

func (s *server) intercept(_ context.Context, r api.InterceptRequest) (api.InterceptResponse, error) {
	if s.interceptor == nil {
		return api.InterceptResponse{}, calls.Errorf(calls.FailedPrecondition, "this agent was not started to intercept")
	}
	return s.interceptor.Set(r)
}

func (s *server) forget(_ context.Context, r api.ForgetRequest) (none, error) {
	if s.interceptor == nil {
		return none{}, calls.Errorf(calls.FailedPrecondition, "this agent does not intercept")
	}
	return none{}, s.interceptor.Forget(r)
}

func (s *server) forgetWays(context.Context, none) (none, error) {
	if s.interceptor == nil {
		return none{}, calls.Errorf(calls.FailedPrecondition, "this agent does not intercept")
	}
	s.interceptor.ForgetWays()
	return none{}, nil
}

func (s *server) flows(context.Context, none) (api.FlowsResponse, error) {
	if s.interceptor == nil {
		return api.FlowsResponse{}, calls.Errorf(calls.FailedPrecondition, "this agent does not intercept")
	}
	return s.interceptor.Flows()
}

func (s *server) accounts(_ context.Context, r api.AccountsRequest) (api.AccountsResponse, error) {
	if s.interceptor == nil {
		return api.AccountsResponse{}, calls.Errorf(calls.FailedPrecondition, "this agent does not intercept")
	}
	return s.interceptor.Accounts(r)
}

func (s *server) fetchAsks(ctx context.Context, r api.AsksRequest) (api.AsksResponse, error) {
	return api.AsksResponse{Asks: s.asks.fetch(ctx, min(r.Wait, maxWait))}, nil
}

func (s *server) answerAsk(_ context.Context, r api.AnswerRequest) (none, error) {
	s.asks.answer(r)
	return none{}, nil
}
