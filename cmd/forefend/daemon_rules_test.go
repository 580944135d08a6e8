package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/cmd/forefend/bucket"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/netns/pdp/audit"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// servedRules serves rules behind the daemon's door, and decisions by them.
func servedRules(t *testing.T, b api.RuleBucket, e *egress) *api.Client {
	t.Helper()
	return dialServed(t, func(server *ttrpc.Server) {
		api.RegisterRules(server, b)
		if e != nil {
			api.RegisterDecisions(server, e)
		}
	}, ttrpc.WithServerHandshaker(newDoor()))
}

// dialServed serves what register registers, and returns a client of it.
func dialServed(t *testing.T, register func(*ttrpc.Server), options ...ttrpc.ServerOpt) *api.Client {
	t.Helper()
	server, err := ttrpc.NewServer(options...)
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { _ = server.Serve(context.Background(), listener); close(served) }()
	c, err := api.Dial(t.Context(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = server.Close(); <-served })
	return c
}

// TestRulesServed: a push answers whoever waits for other rules, decisions follow it and name the version, and an event tells whose it is.
// What fills a message is taken as well.
func TestRulesServed(t *testing.T) {
	s, err := store.Open(t.Context(), t.TempDir(), store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var events []api.Event
	b, err := bucket.Open(t.Context(), s, pdp.Options{Default: flow.Profile{Deny: true}}, time.Now, func(c bucket.Change) { events = append(events, storedEvent(c)) })
	if err != nil {
		t.Fatal(err)
	}
	e := &egress{
		decider: here{rules: b.Current}, audit: audit.New(), risks: func() <-chan struct{} { return nil }, load: func() int { return 0 },
		about: func(workload.ID) (orchestrator.Subject, bool) { return orchestrator.Subject{Workload: "web"}, true },
	}
	e.decider.run(t.Context()) // returns: there is nothing to follow
	c := servedRules(t, b, e)
	ask := api.DecideRequest{Version: flow.Version, Context: flow.Context{Namespace: "default", Container: "c1", Host: "a", Data: "public"}}
	if d, err := c.Decide(t.Context(), ask); err != nil || !d.Profile.Deny {
		t.Errorf("an empty store: %+v, %v", d, err)
	}
	now, err := c.Epoch(t.Context(), api.EpochRequest{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan uint64, 1)
	go func() {
		r, _ := c.Epoch(t.Context(), api.EpochRequest{After: now.Epoch, Wait: maxEpochWait})
		told <- r.Epoch
	}()
	files := map[string][]byte{"site.toml": []byte("[[rule]]\nname = \"a\"\nwhen = 'host == \"a\"'\ntunnel = { encryption = \"none\" }\n")}
	made, err := c.Push(t.Context(), api.RulePush{Files: files, Author: "root", Reason: "ticket"})
	if err != nil || made.Number != 1 || <-told != made.Epoch {
		t.Errorf("%+v, %v", made, err)
	}
	if d, err := c.Decide(t.Context(), ask); err != nil || d.Profile.Deny || d.Epoch != made.Epoch || !strings.HasPrefix(d.Matches[0].Reason, "site.toml:1 of version 1: ") {
		t.Errorf("%+v, %v", d, err)
	}
	large := map[string][]byte{"site.toml": files["site.toml"]}
	for _, name := range []string{"b.toml", "c.toml"} {
		large[name] = bytes.Repeat([]byte("#"), (bucket.MaxBytes-1024)/2)
	}
	if made, err = c.Push(t.Context(), api.RulePush{Files: large, Author: "root"}); err != nil || made.Number != 2 {
		t.Errorf("%+v, %v", made, err)
	}
	if got, err := c.Pull(t.Context(), api.RulePull{}); err != nil || len(got.Contents) != 3 || got.Bytes < bucket.MaxBytes-4096 {
		t.Errorf("%d bytes, %v", got.Bytes, err)
	}
	large["d.toml"] = large["b.toml"][:4096]
	if _, err := c.Push(t.Context(), api.RulePush{Files: large, Author: "root"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if made, err = c.Rollback(t.Context(), api.RuleRollback{Author: "root"}); err != nil || made.From != 1 {
		t.Errorf("%+v, %v", made, err)
	}
	if list, err := c.Versions(t.Context()); err != nil || list.InForce != 3 || len(list.Versions) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	var texts []string
	for _, e := range events {
		texts = append(texts, fmt.Sprint(e.Kind, " ", e.Message, " ", e.Fields["version"], e.Fields["author"], e.Fields["error"]))
	}
	want := []string{
		"rules there are no egress rules in the store: [egress] default holds for every request until forefend policy push true",
		"rules root pushed version 1 of the egress rules: 1 rule in force: ticket 1root",
		"rules root pushed version 2 of the egress rules: 1 rule in force 2root",
		"rules root went back to version 1 of the egress rules, as version 3: 1 rule in force 3root",
	}
	if fmt.Sprint(texts) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", texts, want)
	}
}

// TestStoredEvent tells of what a daemon finds when it begins, and of what did not go well.
func TestStoredEvent(t *testing.T) {
	v := api.RuleVersion{Number: 4, Author: "root", Rules: 2}
	for want, c := range map[string]bucket.Change{
		"egress rules of the store: version 4 by root, 2 rules in force":      {Version: v, Began: true},
		"root pushed version 4 of the egress rules: 2 rules in force (alas)":  {Version: v, Warning: "alas"},
		"a newer version of the egress rules is damaged: version 4 is in use": {Version: v, Began: true, Warning: "a newer version of the egress rules is damaged: version 4 is in use"},
	} {
		if e := storedEvent(c); e.Message != want || (e.Fields["error"] == "true") != (c.Warning != "") {
			t.Errorf("%+v", e)
		}
	}
}

// TestRulesElsewhere: where the rules are not in the store, whoever asks for versions is told where they are.
func TestRulesElsewhere(t *testing.T) {
	for want, e := range map[string]config.Egress{
		"the files of /etc/forefend/rules":          {Rules: "/etc/forefend/rules", PDP: config.PDPLocal},
		"those of pdp.example.com:7443":             {PDP: config.PDPRemote, Remote: config.Central{Address: "pdp.example.com:7443"}},
		"decides about no outbound requests":        {PDP: config.PDPLocal},
		`rules = "store" in [egress] of the daemon`: {},
	} {
		d := &daemon{cfg: &config.Config{Egress: e}}
		if got := d.ruleWarnings(); got != nil {
			t.Error(got)
		}
		c := servedRules(t, d.ruleBucket(), nil)
		_, push := c.Push(t.Context(), api.RulePush{Files: map[string][]byte{"a.toml": nil}})
		_, rollback := c.Rollback(t.Context(), api.RuleRollback{})
		_, versions := c.Versions(t.Context())
		_, pull := c.Pull(t.Context(), api.RulePull{})
		for _, err := range []error{push, rollback, versions, pull} {
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("missing %q in %v", want, err)
			}
		}
	}
}

// TestOlderDaemon: one that knows no such call is named as what it is.
func TestOlderDaemon(t *testing.T) {
	_, file := startBroken(t)
	a := &app{configPath: file}
	err := a.withBucket(t.Context(), func(ctx context.Context, b api.RuleBucket) error {
		_, err := b.Versions(ctx)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "the daemon is of an older release") {
		t.Error(err)
	}
}
