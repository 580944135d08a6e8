package shim

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// alone is a request of a container whose root file system is made of layers.
func alone(upper string) api.AdmitRequest {
	return api.AdmitRequest{Version: api.Version, ListenerPath: "/run/x", Facts: workload.Facts{
		ID: workload.ID{Namespace: "test", Container: "one"}, Run: "one-1", Args: []string{"server"},
		Rootfs: []string{upper, "/layers/2", "/layers/1"},
	}}
}

func TestDecidingAlone(t *testing.T) {
	away := errors.New("nobody listens")
	t.Run("closed", func(t *testing.T) {
		s := newFixture(t, testSpec, "closed").service
		if _, err := s.decideAlone(alone("/layers/3"), away); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "on_unavailable") {
			t.Error(err)
		}
	})
	t.Run("open", func(t *testing.T) {
		s := newFixture(t, testSpec, "open").service
		d, err := s.decideAlone(alone("/layers/3"), away)
		// Without a time the run would have lasted since the year 1.
		if err != nil || d.Availability != api.ByNobody || time.Since(d.Time) > time.Minute || len(d.Notes) != 1 {
			t.Errorf("%+v: %v", d, err)
		}
	})
	t.Run("last known", func(t *testing.T) {
		s := newFixture(t, testSpec, "last-known").service
		known, err := s.decideAlone(alone("/layers/3"), away)
		if err != nil || known.Availability != api.BySiteDefault {
			t.Fatalf("%q: %v", known.Availability, err)
		}
		known.Prediction = workload.Prediction{Runs: 5, Sealed: true}
		known.Effective.Fields = append(known.Effective.Fields, policy.Field{Key: policy.KeyPIDs, Value: 64,
			Origin: policy.Origin{Author: policy.Prediction, Source: "history"}})
		key, ok := known.Facts.RootfsKey()
		if !ok {
			t.Fatal("no key")
		}
		if err := s.cfg.Sealed.Write(key, known); err != nil {
			t.Fatal(err)
		}
		d, err := s.decideAlone(alone("/layers/4"), away)
		if pids, _ := d.Effective.Limit(policy.KeyPIDs); err != nil || d.Availability != api.ByLastKnown || pids != 64 || d.Prediction.Runs != 5 {
			t.Errorf("%q, pids %d, %d runs: %v", d.Availability, pids, d.Prediction.Runs, err)
		}
		// A damaged file is said aloud and not used.
		files, err := filepath.Glob(string(s.cfg.Sealed) + "/*")
		if err != nil || len(files) != 1 {
			t.Fatalf("%v: %v", files, err)
		}
		if err := os.WriteFile(files[0], []byte("forefend-sealed 1 sha256:0\n{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err = s.decideAlone(alone("/layers/4"), away)
		if err != nil || d.Availability != api.BySiteDefault || len(d.Notes) < 2 || !strings.Contains(d.Notes[1], "unusable") {
			t.Errorf("%q %q: %v", d.Availability, d.Notes, err)
		}
	})
}

// What a shim decides alone it tells the daemon later, once.
func TestDecidingAloneIsTold(t *testing.T) {
	s := newFixture(t, testSpec, "last-known").service
	d, err := s.decide(t.Context(), alone("/layers/3"))
	if err != nil || d.Availability != api.BySiteDefault {
		t.Fatalf("%q: %v", d.Availability, err)
	}
	if _, err := s.readjust(t.Context(), &container{id: d.Facts.ID, decision: d}, &specs.LinuxResources{}); err != nil {
		t.Fatal(err)
	}
	var told []api.Event
	soon(t, "an event", func() bool { // that is not just being sent in vain
		s.reporter.mu.Lock()
		defer s.reporter.mu.Unlock()
		told = slices.Clone(s.reporter.events)
		return len(told) > 0
	})
	if len(told) != 1 {
		t.Fatalf("%+v", told)
	}
	s.reporter.mu.Lock()
	whole, waits := s.reporter.decisions[d.Facts.Run]
	s.reporter.mu.Unlock()
	if !waits || whole.Availability != d.Availability || whole.Revision != 1 || whole.Seccomp != nil || len(whole.Table) > 0 {
		t.Errorf("the daemon, which may believe in an answer that came too late, is told %+v", whole)
	}
	e := told[0]
	if e.Kind != api.EventAdmitted || e.ID != d.Facts.ID || e.Run != d.Facts.Run || e.Fields["availability"] != "site-default" ||
		e.Fields["mode"] != "adaptive" || e.Fields["sealed"] != "false" {
		t.Errorf("%+v", e)
	}
}

// olderDaemon understands nothing that a shim of this build asks.
type olderDaemon struct{ api.Orchestrator }

func (olderDaemon) Admit(context.Context, api.AdmitRequest) (api.Decision, error) {
	return api.Decision{}, api.Understood(api.Version+1, 0)
}

func (olderDaemon) Update(context.Context, api.UpdateRequest) (api.Decision, error) {
	return api.Decision{}, api.Understood(api.Version+1, 0)
}

func (olderDaemon) Observe(context.Context, api.ObserveRequest) error {
	return api.Understood(api.Version+1, 0)
}

// TestDaemonTooOld: a daemon that does not understand the shim is as good as none. Containers go on starting.
func TestDaemonTooOld(t *testing.T) {
	s := newFixture(t, testSpec, "last-known").service
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.Register(server, olderDaemon{})
	if err := os.MkdirAll(filepath.Dir(s.cfg.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", s.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(t.Context(), l) })
	t.Cleanup(func() { _ = server.Close(); served.Wait() })
	d, err := s.decide(t.Context(), alone("/layers/3"))
	if err != nil || d.Availability != api.BySiteDefault || len(d.Notes) == 0 || !strings.Contains(d.Notes[0], "restart the daemon") {
		t.Fatalf("%q %q: %v", d.Availability, d.Notes, err)
	}
	c := &container{id: d.Facts.ID, decision: d}
	memory := int64(64 << 20)
	after, err := s.readjust(t.Context(), c, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}})
	if got, _ := after.Effective.Limit(policy.KeyMemory); err != nil || got != memory {
		t.Errorf("memory %d: %v", got, err)
	}
}
