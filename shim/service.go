package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/turn"
	"forefend.dev/forefend/shim/internal/upstream"
)

// Service is upstream's task service under Forefend's policy. Calls it does
// not override go straight through.
type Service struct {
	taskv3.TTRPCTaskService
	cfg        Config
	exits      *exits
	link       *link
	reporter   *reporter
	epochs     *epochs
	supervisor *seccomp.Supervisor
	levers     []lever     // in the order in which they are used
	airbags    *airbags    // that raise predicted memory limits
	ledger     *ledger     // of what the airbags do
	socket     string      // where this shim serves; "" when that is not known
	turn       turn.Brief  // while an answer is waited for
	used       atomic.Bool // it has had a container, or is about to
	// accepted is told of the first TCP connection that a container accepted; nil: nobody is. It must not block.
	accepted func(*container, Passage)

	sandbox atomic.Pointer[seat] // of a pod whose outbound connections are led; nil: there is none

	mu         sync.Mutex
	containers map[string]*container // by id, guarded by mu
}

var _ shim.TTRPCService = (*Service)(nil)

// NewService builds the decorated service of one shim process.
func NewService(ctx context.Context, cfg Config, publisher shim.Publisher, sd shutdown.Service) (*Service, error) {
	if err := fitProcessors(); err != nil {
		return nil, err
	}
	settle := deferGarbage()
	sd.RegisterCallback(func(context.Context) error {
		settle.Stop()
		return nil
	})
	socket := socketOf(listenerFD)
	forgetSocket(sd, socket)
	exits := newExits(publisher)
	inner, err := upstream.NewTask(ctx, exits, sd)
	if err != nil {
		return nil, err
	}
	s := decorate(cfg, inner, exits, sd)
	s.socket = socket
	endWhenOrphaned(sd, &s.used, bundleGone, orphanCheck)
	if cfg.Fault == nil {
		go s.warmDaemon(ctx)
	}
	return s, nil
}

// warmDaemon has the daemon, if there is none, on its way by the time the first Create asks. Failing that is no error here: Create has the
// fallback.
func (s *Service) warmDaemon(ctx context.Context) {
	if err := s.link.ensure(ctx); err != nil {
		log.G(ctx).WithError(err).Debug("forefend: daemon not started ahead of need")
	}
}

// decorate puts a Service around inner and ties its goroutines to sd.
func decorate(cfg Config, inner taskv3.TTRPCTaskService, exits *exits, sd shutdown.Service) *Service {
	s := &Service{TTRPCTaskService: inner, cfg: cfg, exits: exits, link: newLink(cfg), containers: make(map[string]*container)}
	s.levers = []lever{
		resourcesLever{s},
		processesLever{},
		syscallsLever{},
		filesLever{s},
		networkLever{s},
		devicesLever{},
		execsLever{},
	}
	s.accepted = s.onAccepted
	s.reporter = newReporter(s.link)
	s.epochs = newEpochs(s)
	s.supervisor = seccomp.NewSupervisor(seccomp.Config{
		OnEvent: s.onSyscall, OnNew: s.onNew, OnError: s.onSupervisorError, OnSignal: s.onSignal, EventBuffer: 256,
	})
	s.ledger = newLedger()
	s.airbags = newAirbags(s.ledger.hear)
	go s.keepLedger()
	sd.RegisterCallback(func(ctx context.Context) error {
		s.epochs.close()
		s.airbags.close()
		close(s.ledger.stop)
		<-s.ledger.done
		err := s.supervisor.Close()
		if s.cfg.Gates != nil {
			err = errors.Join(err, s.cfg.Gates.Close())
		}
		s.reporter.close(ctx)
		s.link.close()
		return err
	})
	return s
}

// RegisterTTRPC implements shim.TTRPCService, for daemons of all versions.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	taskv3.RegisterTTRPCTaskService(server, s)
	registerV2(server, s)
	api.RegisterAdapter(server, adapter{s})
	return nil
}

func (s *Service) container(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

func (s *Service) add(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id.Container] != nil {
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrAlreadyExists)
	}
	s.containers[c.id.Container] = c
	return nil
}

func (s *Service) remove(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	delete(s.containers, id)
	return c
}

// grpcError makes err an error containerd's clients can act on.
func grpcError(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToGRPC(err)
}
