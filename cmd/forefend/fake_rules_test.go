package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// fakeRules keeps what is pushed and checks nothing of it: the real one has tests of its own. A reason can have it refuse.
type fakeRules struct {
	mu   sync.Mutex
	kept []api.RuleFiles // guarded by mu
}

func (f *fakeRules) Push(_ context.Context, r api.RulePush) (api.RuleChange, error) {
	if r.Reason == "refuse" {
		return api.RuleChange{}, fmt.Errorf("the rules are not in order, what was in force stays:\na.toml:1:1: no: %w", errdefs.ErrInvalidArgument)
	}
	return f.add(r.Files, api.RuleVersion{Reason: r.Reason}), nil
}

func (f *fakeRules) add(files map[string][]byte, v api.RuleVersion) api.RuleChange {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.Number, v.Author, v.Digest, v.Files, v.Rules, v.Tests = uint64(len(f.kept)+1), "root", rules.Digest(files), len(files), 3, 2
	v.Time = clock.Add(-time.Hour)
	if n := len(f.kept); n > 0 && f.kept[n-1].Digest == v.Digest {
		return api.RuleChange{RuleVersion: f.kept[n-1].RuleVersion, Unchanged: true}
	}
	f.kept = append(f.kept, api.RuleFiles{RuleVersion: v, Contents: files})
	return api.RuleChange{RuleVersion: v, Epoch: 4711}
}

func (f *fakeRules) Rollback(ctx context.Context, r api.RuleRollback) (api.RuleChange, error) {
	f.mu.Lock()
	if r.To == 0 {
		r.To = uint64(len(f.kept) - 1)
	}
	f.mu.Unlock()
	old, err := f.Pull(ctx, api.RulePull{Version: r.To})
	if err != nil {
		return api.RuleChange{}, err
	}
	return f.add(old.Contents, api.RuleVersion{From: r.To, Reason: r.Reason}), nil
}

func (f *fakeRules) Versions(context.Context) (api.RuleVersions, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := api.RuleVersions{InForce: uint64(len(f.kept)), Versions: []api.RuleVersion{}}
	if len(f.kept) == 0 {
		found.Warning = "there are no egress rules in the store: " + strings.Repeat("and that is a long story ", 5)
	}
	for i := range f.kept {
		found.Versions = append(found.Versions, f.kept[len(f.kept)-1-i].RuleVersion)
	}
	return found, nil
}

func (f *fakeRules) Pull(_ context.Context, r api.RulePull) (api.RuleFiles, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Version == 0 {
		r.Version = uint64(len(f.kept))
	}
	if r.Version == 0 || r.Version > uint64(len(f.kept)) {
		return api.RuleFiles{}, fmt.Errorf("version %d of the rules is not kept: %w", r.Version, errdefs.ErrNotFound)
	}
	return f.kept[r.Version-1], nil
}
