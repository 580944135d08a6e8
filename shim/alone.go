package shim

import (
	"context"
	"strconv"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// tellAlone says once, in the log and to the daemon when there is one again, what this shim decided without it. Where the daemon was too late
// with an answer, it believes that to be in force.
func (s *Service) tellAlone(ctx context.Context, operation string, d api.Decision, why error) {
	mode, sealed := policy.KeyMode.Format(d.Effective.Mode()), d.Effective.Sealed()
	log.G(ctx).WithFields(log.Fields{
		"id": d.Facts.ID.String(), "run": d.Facts.Run, "mode": mode, "sealed": sealed, "availability": string(d.Availability),
		"revision": d.Revision,
	}).WithError(why).Warn("forefend: " + operation + " decided without the daemon")
	if d.Revision != 1 {
		return // an update: the event of it is told by who applies it
	}
	s.reporter.event(api.Event{
		Time: time.Now(), ID: d.Facts.ID, Run: d.Facts.Run, Kind: api.EventAdmitted,
		Message: "decided by the shim, the daemon could not be asked: " + string(d.Availability) + ", mode " + mode,
		Fields:  map[string]string{"availability": string(d.Availability), "mode": mode, "sealed": strconv.FormatBool(sealed)},
	})
	d.Seccomp, d.Table = nil, nil
	s.reporter.changed(d)
}
