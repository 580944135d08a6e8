package shim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
)

// changed notes an agent's process on disk, so that what is left when this shim dies can be ended, and reports what was not asked for.
func (a *seat) changed(ch AgentChange) {
	a.mu.Lock()
	a.proc = nil
	if ch.PID != 0 {
		a.proc = &record.Agent{PID: ch.PID, Start: ch.Start, Cgroup: agentCgroup(a.c.id)}
	}
	closed := a.closed
	if ch.PID != 0 {
		a.audit.start(time.Now())
	}
	if ch.Fault != "" && !closed {
		a.c.faults.add(ch.Fault)
	}
	a.mu.Unlock()
	if closed {
		return
	}
	if ch.PID != 0 {
		if err := a.s.save(a.c); err != nil {
			log.L.WithError(err).WithField("id", a.c.id.Container).Warn("forefend: agent not recorded")
		}
	}
	switch {
	case ch.Again:
		a.report(api.EventAgent, fmt.Sprintf("its agent was replaced within %s: %s", ch.Outage.Round(time.Millisecond), ch.Reason), nil)
	case ch.Fault != "":
		a.report(api.EventAgent, "the channel to its agent was closed: "+ch.Reason, map[string]string{"fault": ch.Fault})
		a.c.urgent.call()
	}
}

func (a *seat) report(kind, message string, fields map[string]string) {
	a.reportOf(a.c, kind, message, fields)
}

// reportOf tells of one of the containers that share the agent.
func (a *seat) reportOf(c *container, kind, message string, fields map[string]string) {
	a.s.reporter.event(api.Event{Time: time.Now(), ID: c.id, Run: c.current().Facts.Run, Kind: kind, Message: message, Fields: fields})
}

// event takes what the agent claims. It is reported, and what an application asks for is asked of the daemon in the
// application's name: a request loosens only what the container's profile grants.
func (a *seat) event(e AgentEvent) {
	switch e.Kind {
	case agentAsked:
		a.ask(e)
	case agentRefused:
		a.report(api.EventAgent, fmt.Sprintf("messages of the application were not taken (%d, from process %d): %s", e.Count, e.PID, e.Text), nil)
	case agentListening:
		if !a.pod { // in a pod it may be another container's
			a.c.life.listens(time.Now())
		}
	case agentReady, agentReloading, agentStopping:
		// Only what tightens is believed: by RELOADING=1 or STOPPING=1 whoever took over a server could do again what a start may.
		if e.Kind == agentReady && a.c.life.serves(time.Now()) {
			a.s.tellPhase(a.c, "it serves: by its own word (READY=1)")
		}
		a.report(api.EventAgent, "the application says that it is "+e.Kind, map[string]string{"phase": e.Kind, "pid": strconv.Itoa(e.PID)})
	case agentStatus:
		a.mu.Lock()
		a.status = e.Text
		a.mu.Unlock()
	}
	if a.s.cfg.OnAgentEvent != nil {
		a.s.cfg.OnAgentEvent(a.c.id, e)
	}
}

// Kinds of an AgentEvent that the shim itself acts on.
const (
	agentListening = "listening"
	agentReady     = "ready"
	agentReloading = "reloading"
	agentStopping  = "stopping"
	agentStatus    = "status"
	agentAsked     = "asked"
	agentRefused   = "refused"
)

// askDeadline is how long the daemon may take to decide on and apply what an application asks for.
const askDeadline = 30 * time.Second

// ask passes on what an application asks for. It waits for the answer: the next request comes after it.
func (a *seat) ask(e AgentEvent) {
	var resp api.AdjustResponse
	err := a.s.link.call(a.ctx, askDeadline, func(ctx context.Context, client *api.Client) (err error) {
		resp, err = client.Adjust(ctx, api.AdjustRequest{
			Version: api.Version, ID: a.c.id, Brief: true, Set: e.Request, Author: policy.Request,
			Source: fmt.Sprintf("process %d of the application", e.PID), Reason: "FOREFEND_REQUEST over " + notifyVariable,
		})
		return err
	})
	message := fmt.Sprintf("the application asked for %s: revision %d is in force", describe(e.Request), resp.Decision.Revision)
	if err != nil {
		message = fmt.Sprintf("the application asked for %s, in vain: %v", describe(e.Request), err)
	}
	a.report(api.EventAgent, message, map[string]string{"pid": strconv.Itoa(e.PID), "uid": strconv.Itoa(e.UID)})
}

// describe lists what was asked for.
func describe(settings map[string]string) string {
	const most = 200
	var words []string
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		words = append(words, key+"="+settings[key])
	}
	s := strings.Join(words, " ")
	return s[:min(len(s), most)]
}
