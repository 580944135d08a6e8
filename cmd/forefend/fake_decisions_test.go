package main

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// fakeDecisions has decided a little, for another node too.
type fakeDecisions struct{}

func (fakeDecisions) Decide(context.Context, api.DecideRequest) (flow.Decision, error) {
	return flow.Decision{}, errdefs.ErrNotImplemented
}

func (fakeDecisions) Audit(context.Context) (api.AuditResponse, error) {
	return api.AuditResponse{Dropped: 7, Classes: []flow.Class{
		{Workload: "web", Profile: flow.Profile{Encryption: flow.Strong, Dedicated: true}, Rules: []string{"confidential"}, RuleVersion: "13", Reason: "confidential",
			Count: 12, First: clock.Add(-time.Hour), Last: clock.Add(-time.Minute)},
		{Node: "node-1", Workload: "db", Profile: flow.Profile{Deny: true}, RuleVersion: rules.Digest(nil), Reason: "no rule applies", Count: 3, First: clock.Add(-2 * time.Hour), Last: clock.Add(-time.Second)},
	}}, nil
}
