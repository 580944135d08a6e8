package host

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	api "forefend.dev/forefend/agent/api/v1"
)

// intercept has an agent that was just started take connections.
func (s *session) intercept(ctx context.Context, i *Intercept) error {
	r, err := call[api.InterceptRequest, api.InterceptResponse](ctx, s, "Intercept", api.InterceptRequest{Settings: i.Settings()})
	if err != nil {
		return err
	}
	if r.Port == 0 {
		return fmt.Errorf("agent: it intercepts on no port")
	}
	return i.Ready(ctx, r.Port)
}

// serveAsks answers what the agent asks, until the session ends. It asks for no more than MaxAsks answers at once, and gets none.
func (s *session) serveAsks(i *Intercept) {
	ctx, cancel := context.WithCancel(context.Background())
	var answers sync.WaitGroup
	defer answers.Wait()
	defer cancel()
	slots := make(chan struct{}, api.MaxAsks)
	for {
		r, err := s.asks()
		if err != nil || len(r.Asks) > api.MaxAsks {
			s.close() // who follows the session sees that, and says why
			return
		}
		for _, q := range r.Asks {
			if len(q.Body) > api.MaxAsk {
				s.close()
				return
			}
			slots <- struct{}{}
			answers.Go(func() {
				defer func() { <-slots }()
				s.answer(ctx, i, q)
			})
		}
	}
}

func (s *session) asks() (api.AsksResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pollWait+grace)
	defer cancel()
	return call[api.AsksRequest, api.AsksResponse](ctx, s, "Asks", api.AsksRequest{Wait: pollWait})
}

func (s *session) answer(ctx context.Context, i *Intercept, q api.Ask) {
	ctx, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	r := api.AnswerRequest{ID: q.ID}
	body, err := i.Ask(ctx, q.Method, q.Body)
	if err != nil {
		r.Error = err.Error()
	}
	r.Body = body
	_, _ = ask[api.AnswerRequest, struct{}](context.WithoutCancel(ctx), s, "Answer", r) // a session that ends takes its questions along
}

// Settings has the agent that runs understand requests anew; those that come after it start with them.
func (a *Agent) Settings(ctx context.Context, settings json.RawMessage) error {
	_, err := askNow[api.InterceptRequest, api.InterceptResponse](ctx, a, "Intercept", api.InterceptRequest{Settings: settings})
	return err
}

// Forget has decisions of before an epoch count no more; when it returns, the agent uses none.
func (a *Agent) Forget(ctx context.Context, epoch uint64) error {
	_, err := askNow[api.ForgetRequest, struct{}](ctx, a, "Forget", api.ForgetRequest{Epoch: epoch})
	return err
}

// ForgetWays has tunnels that the agent was told before count no more; when it returns, nothing begins by them.
func (a *Agent) ForgetWays(ctx context.Context) error {
	_, err := askNow[struct{}, struct{}](ctx, a, "ForgetWays", struct{}{})
	return err
}

// Accounts asks what was counted of connections that gateways count, too; next and live are of the last answer.
func (a *Agent) Accounts(ctx context.Context, next, live uint64) (json.RawMessage, error) {
	r, err := askNow[api.AccountsRequest, api.AccountsResponse](ctx, a, "Accounts", api.AccountsRequest{Next: next, Live: live})
	return r.Accounts, err
}

// Flows asks for the connections that are intercepted now, and for what was counted since the agent began.
func (a *Agent) Flows(ctx context.Context) (flows, counters json.RawMessage, err error) {
	r, err := askNow[struct{}, api.FlowsResponse](ctx, a, "Flows", struct{}{})
	return r.Flows, r.Counters, err
}
