package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"

	agentapi "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/host"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/shim"
)

// injector is agent/host as the shim knows it.
type injector struct{ host *host.Host }

// agents makes the injector of a shim with this state directory.
func agents(state string) shim.Agents {
	return injector{host.New(host.Config{
		Binary: beside("forefend-agent"),
		Empty:  filepath.Join(state, "agent"),
		Start:  startReaped,
		Join:   cgroup.Join,
		Leave:  leave,
	})}
}

// startReaped starts a command on the calling thread, to be waited for by containerd's reaper: nothing else may wait in a shim.
func startReaped(cmd *exec.Cmd) (wait func() error, err error) {
	exits, err := reaper.Default.Start(cmd)
	if err != nil {
		return nil, err
	}
	return func() error {
		status, err := reaper.Default.Wait(cmd, exits)
		if err == nil && status != 0 {
			err = fmt.Errorf("exit status %d", status)
		}
		return err
	}, nil
}

// leaveDeadline is how long the kernel may take to empty the cgroup of a process that has been waited for.
const leaveDeadline = time.Second

func leave(name string) error {
	group, err := cgroup.Named(name)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(leaveDeadline); ; time.Sleep(2 * time.Millisecond) {
		err := group.Remove()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Inject implements shim.Agents.
func (i injector) Inject(ctx context.Context, t shim.AgentTarget) (shim.Agent, error) {
	if !filepath.IsAbs(i.binary()) {
		return nil, errors.New("forefend-agent is neither beside the shim nor in PATH: install it")
	}
	var intercept *host.Intercept
	if t.Intercept != nil {
		intercept = &host.Intercept{Settings: t.Intercept.Settings, Ready: t.Intercept.Ready, Ask: t.Intercept.Ask}
	}
	a, err := i.host.Inject(ctx, host.Target{
		Intercept: intercept,
		Name:      t.Name, PID: t.PID, PIDStart: t.PIDStart, Cgroup: t.Cgroup, Notify: t.Notify,
		Changed: func(c host.Change) {
			t.Changed(shim.AgentChange{
				PID: c.PID, Start: c.Start, Reason: c.Reason, Fault: c.Fault, Outage: c.Outage, Again: c.PID != 0 && c.Restart > 0,
			})
		},
		Event: func(e agentapi.Event) { t.Event(event(e)) },
	})
	if err != nil {
		return nil, err
	}
	return occupant{a}, nil
}

func (i injector) binary() string { return i.host.Binary() }

func event(e agentapi.Event) shim.AgentEvent {
	out := shim.AgentEvent{Kind: e.Kind, Time: e.Time, PID: e.PID, UID: e.UID, Text: e.Text, Count: e.Count, Request: e.Asked}
	if e.Socket != nil {
		out.Local, out.Cgroup = e.Socket.Local, e.Socket.Cgroup
	}
	return out
}

// occupant is a host.Agent as the shim knows it.
type occupant struct{ *host.Agent }

// State implements shim.Agent.
func (o occupant) State(ctx context.Context) (api.Agent, error) {
	fared := o.Agent.State()
	out := api.Agent{Status: api.AgentRunning, Restarts: fared.Restarts, Faults: fared.Faults, Reason: fared.Reason}
	shake, err := o.Handshake()
	if err != nil {
		return out, err
	}
	out.PID, _ = o.Process()
	out.UID, out.Build, out.Kernel = shake.UID, shake.Build, shake.Kernel
	out.Capabilities, out.Features, out.Degraded = shake.Capabilities, shake.Features, shake.Degraded
	health, err := o.Health(ctx)
	if err != nil {
		return out, err
	}
	out.Uptime, out.CPU, out.Memory, out.Files = health.Uptime, health.CPU, health.Memory, health.Files
	dump, err := o.Dump(ctx, agentapi.DumpRequest{Limit: maxShown})
	if err != nil {
		out.Degraded = append(out.Degraded, err.Error())
		return out, nil
	}
	out.Listening, out.Connections, out.Left = sockets(dump.Listening), sockets(dump.Connections), dump.Left
	return out, nil
}

// maxShown is how many connections are listed.
const maxShown = 200

func sockets(list []agentapi.Socket) []api.Socket {
	out := make([]api.Socket, 0, len(list))
	for _, s := range list {
		out = append(out, api.Socket{Protocol: s.Protocol, State: s.State, Local: s.Local, Remote: s.Remote, UID: s.UID})
	}
	return out
}
