package main

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"forefend.dev/forefend/agent"
	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/sockets"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/intercept/document"
)

// containers are those that share the agent's network namespace, by the cgroup in which the kernel says that a socket was made: no process
// can change that of its sockets. It implements intercept.Attributor.
type containers struct {
	asker agent.Asker
	turns turns

	looking sync.Mutex
	table   *sockets.Table // nil: nobody has been looked for; guarded by looking

	mu    sync.Mutex
	known map[uint64]string // container by cgroup; guarded by mu
}

func newContainers(asker agent.Asker) *containers {
	return &containers{asker: asker, turns: make(turns, containersAtOnce)}
}

// set says which containers there are. Cgroups below theirs are asked for again.
func (c *containers) set(list []document.Container) {
	known := make(map[uint64]string, len(list))
	for _, is := range list {
		known[is.Cgroup] = is.Base.Container
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = known
}

var errNoCgroup = errors.New("the kernel does not say in which cgroup a socket was made, which it does from Linux 5.9 on")

// Container implements intercept.Attributor. A cgroup that is no container's may be below one, which only the shim sees.
func (c *containers) Container(ctx context.Context, network string, local, remote netip.AddrPort) (string, error) {
	group, err := c.cgroup(network, local, remote)
	if err != nil {
		return "", err
	}
	if id, ok := c.of(group); ok {
		return id, nil
	}
	if err := c.turns.take(ctx); err != nil {
		return "", err
	}
	defer c.turns.give()
	if id, ok := c.of(group); ok {
		return id, nil
	}
	var is egress.ContainerAnswer
	if err := ask(ctx, c.asker, api.AskContainer, egress.ContainerQuestion{Cgroup: group}, &is); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) < cached {
		c.known[group] = is.Container
	}
	return is.Container, nil
}

func (c *containers) of(group uint64) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.known[group]
	return id, ok
}

// cgroup is that of a socket.
func (c *containers) cgroup(network string, local, remote netip.AddrPort) (uint64, error) {
	c.looking.Lock()
	defer c.looking.Unlock()
	if c.table == nil {
		table, err := sockets.Open()
		if err != nil {
			return 0, err
		}
		c.table = table // until the agent ends
	}
	s, err := c.table.Find(network, local, remote)
	if err == nil && s.Cgroup == 0 {
		err = errNoCgroup
	}
	return s.Cgroup, err
}
